//! Checkpoints: what is saved comes back, damage is named, and GPT-2 folders from elsewhere open.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use hlx::checkpoint::{
    Checkpoint, FORMAT_VERSION, RunFolder, RunState, find_model_folder, read_model, read_model_config,
    read_tokenizer, replace_file,
};
use hlx::config::{ModelConfig, Precision, ResumeFrom, TrainConfig, TrainOptions};
use hlx::data::{Corpus, Tokenizer};
use hlx::model::parameters::{Init, ModelState, parameter_count, parameter_specs};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

fn shape() -> ModelConfig {
    ModelConfig {
        vocab_size: 4,
        context: 3,
        d_model: 6,
        n_layer: 2,
        n_head: 2,
        d_ff: 10,
        dropout: 0.1,
        layer_norm_eps: 1e-5,
    }
}

/// Different numbers in every tensor, so that none can stand for another.
fn tensors(config: &ModelConfig, salt: f32) -> Vec<Vec<f32>> {
    let specs = parameter_specs(config);
    (specs.iter().enumerate())
        .map(|(i, spec)| (0..spec.len()).map(|j| salt + i as f32 + j as f32 / 1024.0).collect())
        .collect()
}

fn checkpoint(step: u64) -> Checkpoint {
    let corpus = Corpus { name: "x".into(), text: "ab\n".into(), has_examples: true };
    Checkpoint {
        model: ModelState { config: shape(), tensors: tensors(&shape(), step as f32) },
        m: tensors(&shape(), 0.25),
        v: tensors(&shape(), 0.5),
        tokenizer: Tokenizer::build([&corpus]),
        state: RunState {
            format_version: FORMAT_VERSION,
            hlx_version: "0.0.0".into(),
            kernels_hash: "k".into(),
            step,
            epoch: 1,
            windows: 12 * step,
            tokens: 36 * step,
            seed: i64::MAX as u64,
            precision: Precision::Exact,
            device: String::new(),
            driver: String::new(),
            tuning: Default::default(),
            digest: "d".into(),
            training_hash: "t".into(),
            options: None,
            unbroken_since: None,
            init_digest: None,
            corpus_hash: "c".into(),
            train_loss: 0.1 + 0.2,
            val_loss: None,
            best_val_loss: Some(1.5),
            best_step: Some(20),
            chain: vec![],
        },
    }
}

fn config() -> TrainConfig {
    TrainConfig::resolve(TrainOptions::default(), None).unwrap()
}

/// The result is an error with exit code 1, one line long, with every part in it.
fn message<T>(result: hlx::error::Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("no error, where one with {parts:?} was expected") };
    assert_eq!(error.exit_code(), 1);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(!message.contains('\n'), "one line: {message:?}");
}

/// Every file under a folder, with its bytes.
fn snapshot(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn parameters_are_gpt2s() {
    let specs = parameter_specs(&ModelConfig { vocab_size: 50257, ..gpt2() });
    assert_eq!(specs.len(), 148);
    assert_eq!(specs.iter().map(|spec| spec.len()).sum::<usize>(), 124_439_808, "GPT-2's published size");
    assert!(specs.iter().all(|spec| spec.decay == (spec.shape.len() == 2)));
    let find = |name: &str| specs.iter().find(|spec| spec.name == name).unwrap();
    assert_eq!(find("transformer.h.11.attn.c_attn.weight").shape, [768, 2304]);
    assert_eq!(find("transformer.h.0.mlp.c_fc.weight").init, Init::Normal(0.02));
    let Init::Normal(std) = find("transformer.h.0.mlp.c_proj.weight").init else { panic!("not normal") };
    assert!((std - 0.02 / 24f64.sqrt()).abs() < 1e-12);
    assert_eq!(find("transformer.ln_f.weight").init, Init::Ones);
    assert_eq!(find("transformer.h.3.attn.c_proj.bias").init, Init::Zeros);
}

fn gpt2() -> ModelConfig {
    hlx::config::Preset::Gpt2.config(0)
}

#[test]
fn a_checkpoint_comes_back_and_its_bytes_follow_from_the_state() {
    let folder = TempDir::new().unwrap();
    let (a, b) = (folder.path().join("a/step-00000007"), folder.path().join("b/step-00000007"));
    checkpoint(7).save(&a).unwrap();
    checkpoint(7).save(&b).unwrap();
    assert_eq!(Checkpoint::load(&a).unwrap(), checkpoint(7));
    assert_eq!(snapshot(&a), snapshot(&b));
    let names: Vec<_> = snapshot(&a).into_iter().map(|(name, _)| name).collect();
    let expected = [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(snapshot_names(a.parent().unwrap()), ["step-00000007"], "nothing is left beside it");

    checkpoint(8).save(&a).unwrap();
    assert_eq!(Checkpoint::load(&a).unwrap(), checkpoint(8), "an older folder of the name gives way");
    assert_eq!(snapshot_names(a.parent().unwrap()), ["step-00000007"]);
}

fn snapshot_names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn damage_to_any_file_is_found_and_the_file_named() {
    let folder = TempDir::new().unwrap();
    let step = folder.path().join("step-00000001");
    checkpoint(1).save(&step).unwrap();
    for (name, bytes) in snapshot(&step) {
        let path = step.join(&name);
        let mut flipped = bytes.clone();
        flipped[bytes.len() / 2] ^= 1;
        fs::write(&path, flipped).unwrap();
        message(Checkpoint::load(&step), &[&name, "damaged", "hash"]);
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        message(Checkpoint::load(&step), &[&name, "damaged"]);
        fs::remove_file(&path).unwrap();
        message(Checkpoint::load(&step), &[&name]);
        fs::write(&path, &bytes).unwrap();
        Checkpoint::load(&step).unwrap();
    }
}

#[test]
fn a_checkpoint_of_another_version_says_so() {
    let folder = TempDir::new().unwrap();
    let step = folder.path().join("step-00000001");
    let mut newer = checkpoint(1);
    newer.state.format_version = FORMAT_VERSION + 1;
    newer.save(&step).unwrap();
    message(Checkpoint::load(&step), &["state.json", "format version 3"]);
}

#[test]
fn a_run_keeps_its_newest_and_its_best() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path().join("run"));
    let _lock = run.prepare(&config(), None).unwrap();
    for step in [10, 20, 30, 40, 50] {
        run.save(&checkpoint(step), 2).unwrap();
    }
    assert_eq!(run.steps().unwrap(), [50, 40, 20], "the best was saved after step 20");
    assert_eq!(run.latest(), Some(run.step_folder(50)));
    assert_eq!(run.best(), Some(run.step_folder(20)));
    assert_eq!(fs::read_to_string(run.path().join("latest")).unwrap(), "step-00000050\n");
    assert_eq!(find_model_folder("--checkpoint", run.path()).unwrap(), run.step_folder(50));
    assert_eq!(find_model_folder("--checkpoint", &run.step_folder(40)).unwrap(), run.step_folder(40));
    message(find_model_folder("--checkpoint", folder.path()), &["--checkpoint", "neither"]);
}

#[test]
fn resuming_takes_the_newest_whole_checkpoint() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    assert!(run.load_to_resume(&ResumeFrom::Auto).unwrap().is_none());
    message(run.load_to_resume(&ResumeFrom::Path(folder.path().into())), &["no checkpoint in it"]);
    message(run.load_to_resume(&ResumeFrom::Path("no/such".into())), &["no/such", "no such folder"]);
    for step in [10, 20, 30] {
        run.save(&checkpoint(step), 0).unwrap();
    }
    let resumed = |choice: &ResumeFrom| run.load_to_resume(choice).unwrap().unwrap().1.state.step;
    assert_eq!(resumed(&ResumeFrom::Auto), 30);
    fs::write(run.step_folder(30).join("model.safetensors"), "cut").unwrap();
    fs::remove_file(run.step_folder(20).join("manifest.json")).unwrap();
    assert_eq!(resumed(&ResumeFrom::Auto), 10);
    let named = ResumeFrom::Path(run.step_folder(30));
    message(run.load_to_resume(&named), &["step-00000030", "model.safetensors", "damaged"]);
    fs::remove_file(run.step_folder(10).join("state.json")).unwrap();
    message(run.load_to_resume(&ResumeFrom::Auto), &["none of its checkpoints is whole"]);
}

#[test]
fn a_run_resumed_early_does_not_go_back_to_what_it_left_behind() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    for step in [10, 20, 30, 15] {
        run.save(&checkpoint(step), 2).unwrap();
    }
    // A hint that cannot be read is none.
    fs::create_dir(folder.path().join("saving")).unwrap();
    let (_, resumed) = run.load_to_resume(&ResumeFrom::Auto).unwrap().unwrap();
    assert_eq!(resumed.state.step, 15);
}

#[test]
fn a_new_run_does_not_write_over_another() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("deep/run");
    let mut config = config();
    config.out = Some(out.clone());
    let run = RunFolder::for_new_run(&config).unwrap();
    let lock = run.prepare(&config, None).unwrap();
    let id = format!("process {}", std::process::id());
    message(RunFolder::for_new_run(&config), &["deep", "in use", &id, "another --out"]);
    drop(lock);
    let error = RunFolder::for_new_run(&config).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("--resume"), "{error}");
    let resumed = |choice| RunFolder::to_resume(&choice, &config.to_options()).unwrap().path().to_owned();
    assert_eq!(resumed(ResumeFrom::Path(out.join("step-00000010"))), out);
    assert_eq!(resumed(ResumeFrom::Auto), out);
}

#[test]
fn a_folder_in_use_is_refused_and_free_again_afterwards() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    let lock = run.lock().unwrap();
    let id = std::process::id().to_string();
    assert_eq!(fs::read_to_string(folder.path().join("lock")).unwrap().trim(), id);
    for result in [run.lock(), run.prepare(&config(), None)] {
        message(result, &["in use", &format!("process {id} "), "--out"]);
    }
    assert_eq!(snapshot_names(folder.path()), ["lock"], "a refused run writes nothing");
    drop(lock);
    assert_eq!(fs::read(folder.path().join("lock")).unwrap(), b"", "the id is taken back");
    let _again = run.prepare(&config(), None).unwrap();
}

#[test]
fn a_run_that_came_between_looking_and_locking_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let late = RunFolder::at(folder.path().join("run"));
    assert!(!late.holds_run().unwrap());
    let early = RunFolder::at(folder.path().join("run"));
    let lock = early.prepare(&config(), None).unwrap();
    early.save(&checkpoint(20), 0).unwrap();
    drop(lock);
    let before = snapshot_names(early.path());
    let mut other = config();
    other.lr = 0.5;
    let text = fs::read(early.config_file()).unwrap();
    let error = late.prepare(&other, None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let said = error.to_string();
    for part in ["run", "meanwhile", "--resume"] {
        assert!(said.contains(part), "{said:?} lacks {part:?}");
    }
    assert_eq!(snapshot_names(early.path()), before);
    assert_eq!(fs::read(early.config_file()).unwrap(), text);
}

#[test]
fn a_run_that_goes_on_writes_its_configuration_with_its_first_save() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    let lock = run.prepare(&config(), None).unwrap();
    run.save(&checkpoint(20), 0).unwrap();
    drop(lock);
    let mut other = config();
    other.lr = 0.5;
    let text = || fs::read_to_string(run.config_file()).unwrap();
    let before = text();
    let _lock = run.prepare(&other, Some(run.lock().unwrap())).unwrap();
    assert_eq!(text(), before, "nothing was trained yet");
    run.save(&checkpoint(30), 0).unwrap();
    assert_eq!(text(), other.to_toml().unwrap());
}

#[test]
fn what_a_crash_left_behind_is_cleared() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    run.save(&checkpoint(20), 0).unwrap();
    for name in [".step-00000010.tmp", ".step-00000020.old", ".step-00000005.gone"] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("part"), "x").unwrap();
    }
    drop(run.prepare(&config(), Some(run.lock().unwrap())).unwrap());
    assert_eq!(snapshot_names(folder.path()), ["best", "latest", "lock", "step-00000020"]);
}

#[test]
fn a_checkpoint_that_had_made_way_comes_back_if_its_successor_did_not_arrive() {
    let folder = TempDir::new().unwrap();
    let run = RunFolder::at(folder.path());
    run.save(&checkpoint(20), 0).unwrap();
    fs::rename(run.step_folder(20), folder.path().join(".step-00000020.old")).unwrap();
    let (_, found) = run.load_to_resume(&ResumeFrom::Auto).unwrap().unwrap();
    assert_eq!(found, checkpoint(20));
    drop(run.prepare(&config(), Some(run.lock().unwrap())).unwrap());
    assert_eq!(Checkpoint::load(&run.step_folder(20)).unwrap(), checkpoint(20));
    assert_eq!(snapshot_names(folder.path()), ["best", "latest", "lock", "step-00000020"]);
}

/// The folder that the transformers library wrote: `HLX_BASELINE`, or where this project's tests expect it.
fn baseline() -> PathBuf {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/baselines/pytorch-nano");
    let folder = std::env::var_os("HLX_BASELINE").map_or(default.into(), PathBuf::from);
    assert!(
        folder.join("model.safetensors").is_file(),
        "this test reads a model folder that the transformers library saved, and there is none at {}: \
         set HLX_BASELINE to one",
        folder.display()
    );
    folder
}

#[test]
fn a_folder_saved_by_transformers_opens() {
    let folder = baseline();
    let model = read_model(&folder).unwrap();
    let specs = parameter_specs(&model.config);
    assert_eq!(specs.len(), model.tensors.len());
    assert_eq!(parameter_count(&model.config), model.tensors.iter().map(Vec::len).sum::<usize>());
    let bytes = fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (spec, tensor) in specs.iter().zip(&model.tensors) {
        let view = file.tensor(&spec.name).unwrap();
        assert_eq!(bytemuck::cast_slice::<f32, u8>(tensor), view.data(), "{}", spec.name);
    }
    assert_eq!(read_tokenizer(&folder).unwrap(), None);
}

/// A GPT-2 folder with a change in its configuration and its tensors.
struct Folder {
    directory: TempDir,
    config: Value,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Folder {
    fn new() -> Folder {
        let directory = TempDir::new().unwrap();
        checkpoint(1).save(&directory.path().join("step-00000001")).unwrap();
        let saved = directory.path().join("step-00000001");
        let config = serde_json::from_slice(&fs::read(saved.join("config.json")).unwrap()).unwrap();
        let bytes = fs::read(saved.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let tensors = tensors.into_iter().map(|(n, t)| (n, t.dtype(), t.shape().to_vec(), t.data().to_vec()));
        Folder { directory, config, tensors: tensors.collect() }
    }

    fn path(&self) -> PathBuf {
        let path = self.directory.path().join("model");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("config.json"), self.config.to_string()).unwrap();
        let views = self
            .tensors
            .iter()
            .map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        fs::write(path.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
        path
    }

    fn tensor(&mut self, name: &str) -> &mut (String, Dtype, Vec<usize>, Vec<u8>) {
        self.tensors.iter_mut().find(|tensor| tensor.0 == name).unwrap()
    }
}

#[test]
fn names_without_prefix_masks_and_a_tied_head_are_accepted() {
    let mut folder = Folder::new();
    let expected = read_model(&folder.path()).unwrap();
    for tensor in &mut folder.tensors {
        tensor.0 = tensor.0.strip_prefix("transformer.").unwrap().to_owned();
    }
    let (_, dtype, shape, data) = folder.tensor("wte.weight").clone();
    folder.tensors.push(("lm_head.weight".into(), dtype, shape, data));
    folder.tensors.push(("h.0.attn.bias".into(), Dtype::F32, vec![1], vec![0; 4]));
    folder.tensors.push(("h.0.attn.masked_bias".into(), Dtype::F32, vec![], vec![0; 4]));
    assert_eq!(read_model(&folder.path()).unwrap(), expected);

    folder.tensor("lm_head.weight").3[0] ^= 1;
    message(read_model(&folder.path()), &["model.safetensors", "lm_head.weight", "tied"]);
}

#[test]
fn half_precision_is_widened() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        let mut folder = Folder::new();
        let tensor = folder.tensor("transformer.ln_f.bias");
        tensor.1 = dtype;
        let values = [1.0f32, -2.5, 0.15625, 0.0, 1024.0, -0.5];
        tensor.3 = values
            .iter()
            .flat_map(|&x| {
                if dtype == Dtype::F16 {
                    f16::from_f32(x).to_le_bytes()
                } else {
                    bf16::from_f32(x).to_le_bytes()
                }
            })
            .collect();
        assert_eq!(read_model(&folder.path()).unwrap().tensors.last().unwrap(), &values);
    }
}

#[test]
fn models_that_hlx_does_not_run_are_refused_with_the_reason() {
    let cases = [
        ("model_type", json!("llama"), "model_type"),
        ("architectures", json!(["GPT2ForSequenceClassification"]), "architectures"),
        ("activation_function", json!("relu"), "activation_function"),
        ("scale_attn_by_inverse_layer_idx", json!(true), "scale_attn_by_inverse_layer_idx"),
        ("n_head", json!(4), "n_head 4"),
        ("n_layer", json!("two"), "n_layer"),
    ];
    for (key, value, part) in cases {
        let mut folder = Folder::new();
        folder.config[key] = value;
        message(read_model_config(&folder.path()), &["config.json", part]);
    }
}

#[test]
fn tensors_that_do_not_fit_are_named_with_both_shapes() {
    let mut folder = Folder::new();
    folder.config["n_inner"] = json!(12);
    message(
        read_model(&folder.path()),
        &["model.safetensors", "transformer.h.0.mlp.c_fc.weight", "[6, 10]", "[6, 12]"],
    );
    let mut folder = Folder::new();
    folder.tensors.retain(|tensor| tensor.0 != "transformer.wpe.weight");
    message(read_model(&folder.path()), &["no tensor transformer.wpe.weight"]);
    let mut folder = Folder::new();
    folder.tensors.push(("score.weight".into(), Dtype::F32, vec![1], vec![0; 4]));
    message(read_model(&folder.path()), &["score.weight"]);
    let mut folder = Folder::new();
    folder.tensor("transformer.ln_f.bias").3[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
    message(read_model(&folder.path()), &["NaN", "transformer.ln_f.bias", "element 1"]);
    let mut folder = Folder::new();
    folder.tensor("transformer.ln_f.bias").1 = Dtype::I32;
    message(read_model(&folder.path()), &["transformer.ln_f.bias", "I32"]);
}

#[test]
fn a_file_that_cannot_be_replaced_leaves_nothing_beside_it() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("taken");
    fs::create_dir(&place).unwrap();
    message(replace_file(&place, b"text"), &["cannot replace", "taken"]);
    message(replace_file(&folder.path().join(".."), b"text"), &["not the name of a file"]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "only the folder that was there");
}

#[test]
fn gpt2s_own_defaults_stand_in_for_missing_keys() {
    let mut folder = Folder::new();
    let config = folder.config.as_object_mut().unwrap();
    for key in ["architectures", "activation_function", "layer_norm_epsilon", "n_inner", "resid_pdrop"] {
        config.remove(key);
    }
    let read = read_model_config(&folder.path()).unwrap();
    assert_eq!(read, ModelConfig { d_ff: 24, ..shape() });
}
