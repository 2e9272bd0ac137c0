//! Every loader of files from outside, as a function of bytes that may be anything. None may panic, and
//! what is accepted must hold together.
//!
//! The fuzz targets in fuzz/ and the bounded run in tests/loaders.rs call these same functions.

#![allow(dead_code)] // each fuzz target uses one

use std::path::Path;
use std::sync::OnceLock;

use hlx::checkpoint::{Checkpoint, read_model_from, read_tokenizer_from};
use hlx::config::{TrainConfig, TrainOptions};
use hlx::data::{Corpus, Tokenizer};

use crate::fixtures::{checkpoint, small_shape};
use crate::storage::Memory;

/// A loader's name and the function that runs it.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 9] = [
    ("safetensors", safetensors),
    ("optimizer", optimizer),
    ("manifest", manifest),
    ("state", state),
    ("model_config", model_config),
    ("tokenizer", tokenizer),
    ("config_toml", config_toml),
    ("corpus", corpus),
    ("jsonl", jsonl),
];

const FOLDER: &str = "step-00000030";

/// A whole checkpoint in memory.
pub fn saved() -> &'static Memory {
    static SAVED: OnceLock<Memory> = OnceLock::new();
    SAVED.get_or_init(|| {
        let place = tempfile::TempDir::new().expect("a temporary folder can be made");
        let path = place.path().join(FOLDER);
        checkpoint(&small_shape(), 30).save(&path).expect("a checkpoint can be saved");
        let on_disk = Memory::of_folder(&path);
        let mut memory = Memory::default();
        memory.folders.insert(FOLDER.into());
        for (path, bytes) in on_disk.files {
            memory.files.insert(Path::new(FOLDER).join(path.file_name().expect("a file has a name")), bytes);
        }
        memory
    })
}

/// The folder with another content of one file, and no manifest to say that it is another.
fn foreign(name: &str, bytes: &[u8]) -> Memory {
    let mut memory = saved().clone();
    memory.files.remove(&Path::new(FOLDER).join("manifest.json"));
    memory.files.insert(Path::new(FOLDER).join(name), bytes.to_vec());
    memory
}

/// The folder with another content of one file, and a manifest that vouches for it.
pub fn vouched(name: &str, bytes: &[u8]) -> Memory {
    let mut memory = saved().clone();
    memory.files.insert(Path::new(FOLDER).join(name), bytes.to_vec());
    let manifest = memory.files.get_mut(&Path::new(FOLDER).join("manifest.json")).expect("it has one");
    let mut json: serde_json::Value = serde_json::from_slice(manifest).expect("the manifest is JSON");
    let entry = &mut json["files"][name];
    entry["bytes"] = bytes.len().into();
    entry["blake3"] = blake3::hash(bytes).to_string().into();
    let text = serde_json::to_string_pretty(&serde_json::json!({ "files": json["files"] })).expect("JSON");
    *manifest = sealed(text.strip_suffix("\n}").expect("an object").as_bytes());
    memory
}

/// A manifest's text behind `body`, with the hash that makes it one.
pub fn sealed(body: &[u8]) -> Vec<u8> {
    let seal = format!(",\n  \"blake3\": \"{}\"\n}}\n", blake3::hash(body));
    [body, seal.as_bytes()].concat()
}

/// The checkpoint in the folder.
pub fn load(memory: &Memory) -> hlx::error::Result<Checkpoint> {
    one_line(Checkpoint::load_from(memory, Path::new(FOLDER)))
}

/// Whatever is wrong is said in one line.
fn one_line<T>(result: hlx::error::Result<T>) -> hlx::error::Result<T> {
    if let Err(error) = &result {
        let message = error.to_string();
        assert!(!message.chars().any(char::is_control), "{message:?}");
    }
    result
}

/// Weights as other programs write them.
pub fn safetensors(bytes: &[u8]) {
    let memory = foreign("model.safetensors", bytes);
    if let Ok(model) = one_line(read_model_from(&memory, Path::new(FOLDER))) {
        assert!(model.tensors.iter().flatten().all(|x| x.is_finite()));
        assert!(model.tensors.iter().map(Vec::len).sum::<usize>() <= bytes.len());
    }
}

pub fn optimizer(bytes: &[u8]) {
    if let Ok(loaded) = load(&vouched("optimizer.safetensors", bytes)) {
        assert!(loaded.m.iter().chain(&loaded.v).flatten().all(|x| x.is_finite()));
    }
}

/// A manifest whose hash of itself is right, whatever is in it.
pub fn manifest(bytes: &[u8]) {
    let mut memory = saved().clone();
    memory.files.insert(Path::new(FOLDER).join("manifest.json"), sealed(bytes));
    if let Ok(loaded) = load(&memory) {
        assert!(loaded == checkpoint(&small_shape(), 30), "only the true files can be vouched for");
    }
}

pub fn state(bytes: &[u8]) {
    if let Ok(loaded) = load(&vouched("state.json", bytes)) {
        // The state may say anything, so long as it can be written down again.
        serde_json::to_string(&loaded.state).expect("a state that was read is JSON");
    }
}

pub fn model_config(bytes: &[u8]) {
    let _ = one_line(read_model_from(&foreign("config.json", bytes), Path::new(FOLDER)));
}

pub fn tokenizer(bytes: &[u8]) {
    let memory = foreign("tokenizer.json", bytes);
    let Ok(read) = one_line(read_tokenizer_from(&memory, Path::new(FOLDER))) else { return };
    let tokenizer = read.expect("the file is there");
    assert!(tokenizer.vocab_size() <= bytes.len());
    let again = Tokenizer::from_json(&tokenizer.to_json()).expect("what it writes, it reads");
    assert_eq!(again, tokenizer);
    let ids: Vec<u32> = (0..tokenizer.vocab_size() as u32).collect();
    let text = tokenizer.decode(&ids);
    // Characters that spell the end-of-text token are read as that token, and only then.
    if tokenizer.end_of_text().is_none() {
        assert_eq!(tokenizer.encode(&text, "its own text").expect("it knows its own text"), ids);
    }
}

pub fn config_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match TrainOptions::parse(text) {
        Err(reason) => assert!(!reason.chars().any(char::is_control), "{reason:?}"),
        Ok(options) => {
            let Ok(config) = one_line(TrainConfig::resolve(options, None)) else { return };
            let written = config.to_toml().expect("a configuration that was read can be written");
            let again = TrainOptions::parse(&written).expect("what it writes, it reads");
            let again = TrainConfig::resolve(again, None).expect("and it means something");
            assert_eq!(again.to_toml().expect("as before"), written);
        }
    }
}

pub fn corpus(bytes: &[u8]) {
    read_corpus(bytes, false);
}

pub fn jsonl(bytes: &[u8]) {
    read_corpus(bytes, true);
}

fn read_corpus(bytes: &[u8], has_examples: bool) {
    let Ok(corpus) = one_line(Corpus::from_bytes("corpus".into(), bytes.to_vec(), has_examples)) else {
        return;
    };
    let tokenizer = Tokenizer::build([&corpus]);
    let tokens = tokenizer.encode(&corpus.text, "corpus").expect("it was built from this text");
    assert_eq!(tokenizer.decode(&tokens), corpus.text);
}
