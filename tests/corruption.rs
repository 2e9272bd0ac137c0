//! Every damage to a saved checkpoint is refused, and the file or tensor at fault named.

#[path = "common/fixtures.rs"]
mod fixtures;
#[path = "common/scale.rs"]
mod scale;
#[path = "common/storage.rs"]
mod storage;

use std::path::PathBuf;

use fixtures::{checkpoint, small_shape};
use hlx::checkpoint::{Checkpoint, MANIFEST};
use hlx::config::ModelConfig;
use safetensors::tensor::SafeTensors;
use scale::{Random, count, report};
use storage::Memory;
use tempfile::TempDir;

/// A saved checkpoint in memory, to be damaged.
struct Saved {
    path: PathBuf,
    memory: Memory,
}

impl Saved {
    fn new(shape: &ModelConfig) -> Saved {
        let place = TempDir::new().unwrap();
        let path = place.path().join("step-00000030");
        checkpoint(shape, 30).save(&path).unwrap();
        let memory = Memory::of_folder(&path);
        Checkpoint::load_from(&memory, &path).expect("undamaged, it loads");
        Saved { path, memory }
    }

    fn names(&self) -> Vec<String> {
        let names = self.memory.files.keys().map(|path| path.file_name().unwrap().to_string_lossy());
        names.map(String::from).collect()
    }

    fn bytes(&mut self, name: &str) -> &mut Vec<u8> {
        self.memory.files.get_mut(&self.path.join(name)).expect("the checkpoint has this file")
    }

    /// What loading says; loading must not succeed.
    fn refusal(&self, damage: &str) -> String {
        let Err(error) = Checkpoint::load_from(&self.memory, &self.path) else {
            panic!("{damage} is accepted")
        };
        let message = error.to_string();
        assert!(!message.contains('\n') && error.exit_code() == 1, "{damage}: {message:?}");
        message
    }

    /// Flips a bit, hands over what loading says, and flips it back.
    fn flip(&mut self, name: &str, bit: usize) -> String {
        self.bytes(name)[bit / 8] ^= 1 << (bit % 8);
        let message = self.refusal(&format!("bit {bit} of {name}"));
        self.bytes(name)[bit / 8] ^= 1 << (bit % 8);
        message
    }
}

/// Length of a safetensors file's header, with the length itself.
fn header_length(bytes: &[u8]) -> usize {
    8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize
}

/// Each tensor's name and where its bytes end in the file, in the file's order.
fn ends(bytes: &[u8]) -> Vec<(usize, String)> {
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let start = bytes.as_ptr() as usize;
    let end = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (view.data().as_ptr_range().end as usize - start, name)
    };
    let mut ends: Vec<_> = tensors.tensors().into_iter().map(end).collect();
    ends.sort();
    ends
}

#[test]
fn a_file_cut_anywhere_is_named() {
    let mut saved = Saved::new(&ModelConfig { n_layer: 2, d_model: 64, d_ff: 256, ..small_shape() });
    let mut cuts = 0;
    for name in saved.names() {
        let whole = saved.bytes(&name).clone();
        let ends = (0..whole.len()).step_by(4096).chain([1, whole.len() / 2, whole.len() - 1]);
        for end in ends {
            saved.bytes(&name).truncate(end);
            let message = saved.refusal(&format!("{name} cut after {end} bytes"));
            assert!(message.contains(&name) && message.contains("damaged"), "{name} cut at {end}: {message}");
            *saved.bytes(&name) = whole.clone();
            cuts += 1;
        }
        let mut longer = whole.clone();
        longer.push(0);
        *saved.bytes(&name) = longer;
        assert!(saved.refusal(&format!("a byte behind {name}")).contains(&name));
        *saved.bytes(&name) = whole;
    }
    report("truncations at every 4 KiB and more, refused, file named", cuts);
}

#[test]
fn every_bit_of_what_is_not_weights_counts() {
    let mut saved = Saved::new(&small_shape());
    let stride = count(61, 1);
    let mut flips = 0;
    for name in saved.names() {
        let bytes = saved.bytes(&name);
        let length = if name.ends_with(".safetensors") { header_length(bytes) } else { bytes.len() };
        for bit in (0..8 * length).step_by(stride) {
            let message = saved.flip(&name, bit);
            assert!(message.contains(&name) && message.contains("damaged"), "bit {bit} of {name}: {message}");
            flips += 1;
        }
    }
    report("bits of headers, manifest, state and configuration, refused, file named", flips);
}

#[test]
fn a_flipped_bit_of_any_tensor_names_the_tensor() {
    let mut saved = Saved::new(&small_shape());
    let mut random = Random(7);
    let flips = count(1000, 20_000);
    for _ in 0..flips {
        let name = ["model.safetensors", "optimizer.safetensors"][random.below(2)];
        let bytes = saved.bytes(name);
        let start = header_length(bytes);
        let byte = start + random.below(bytes.len() - start);
        let tensors = ends(bytes);
        let (_, tensor) = tensors.iter().find(|(end, _)| byte < *end).expect("every byte is a tensor's");
        let message = saved.flip(name, 8 * byte + random.below(8));
        let named = format!("tensor {tensor} ");
        assert!(message.contains(name) && message.contains(&named), "byte {byte} of {tensor}: {message}");
    }
    report("flipped bits of weights and moments, refused, tensor named", flips);
}

#[test]
fn a_missing_file_is_named() {
    let saved = Saved::new(&small_shape());
    for name in saved.names() {
        let mut memory = saved.memory.clone();
        memory.files.remove(&saved.path.join(&name));
        let error = Checkpoint::load_from(&memory, &saved.path).unwrap_err().to_string();
        assert!(error.contains(&name), "{name}: {error}");
    }
    assert!(saved.names().contains(&MANIFEST.to_owned()));
}

/// Files of two checkpoints of one run, each whole, do not make one.
#[test]
fn a_file_of_another_checkpoint_is_refused() {
    let mut saved = Saved::new(&small_shape());
    let place = TempDir::new().unwrap();
    let other = place.path().join("step-00000030");
    checkpoint(&small_shape(), 40).save(&other).unwrap();
    for name in ["model.safetensors", "optimizer.safetensors", "state.json", MANIFEST] {
        let foreign = std::fs::read(other.join(name)).unwrap();
        let own = std::mem::replace(saved.bytes(name), foreign);
        saved.refusal(&format!("{name} of another checkpoint"));
        *saved.bytes(name) = own;
    }
}
