//! Fuzzes a configuration file of hlx train.

#![no_main]

#[path = "../../tests/common/fixtures.rs"]
mod fixtures;
#[path = "../../tests/common/loaders.rs"]
mod loaders;
#[path = "../../tests/common/storage.rs"]
mod storage;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| loaders::config_toml(bytes));
