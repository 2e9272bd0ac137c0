//! Checkpoints: Hugging Face GPT-2 model folders that also hold what training needs to go on.
//!
//! A run folder holds step folders; a step folder holds a whole checkpoint, is written beside its
//! place and renamed into it, and carries a hash of each of its files and tensors. Every file's bytes are a
//! function of the training state alone.

mod atomic;
mod lock;
mod manifest;
mod model_folder;
mod names;
mod run_folder;
mod step_folder;
mod storage;
mod tensors;

pub use atomic::{replace_file, replace_file_on};
pub use lock::{LOCK, RunLock};
pub use manifest::MANIFEST;
pub use model_folder::{read_model, read_model_config, read_model_from, read_tokenizer, read_tokenizer_from};
pub use run_folder::{RunFolder, find_model_folder};
pub use step_folder::{Checkpoint, FORMAT_VERSION, Link, RunState, Since};
pub use storage::{Disk, Lock, Storage, StoredFile};
