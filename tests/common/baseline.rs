//! Reads a folder of figures that PyTorch calculated: initial weights, windows, losses, norms, logits.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Where the shared baselines and corpora lie, beside a checkout.
pub fn shared() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared")
}

/// One run of PyTorch, to be followed step by step.
pub struct Baseline {
    pub folder: PathBuf,
    pub text: String,
    pub vocab: Vec<char>,
    pub context: usize,
    pub batch: usize,
    pub lr: f64,
    pub warmup_steps: u64,
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
    pub grad_clip: f64,
    /// First token of each window of each step, in the training part.
    pub windows: Vec<Vec<usize>>,
    /// The same in the validation part.
    pub val_windows: Vec<Vec<usize>>,
    pub losses: Vec<f64>,
    pub grad_norms: Vec<f64>,
    pub val_loss: f64,
    /// Logits of the first window's last position before training, if they were kept.
    pub first_logits: Option<Vec<f64>>,
}

fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; the parity test needs the baseline folder beside the checkout, or HLX_BASELINE=DIR",
            path.display()
        )
    });
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn number(value: &Value, what: &str) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("the baseline has no number {what}"))
}

fn numbers(value: &Value, what: &str) -> Vec<f64> {
    value
        .as_array()
        .unwrap_or_else(|| panic!("the baseline has no list {what}"))
        .iter()
        .map(|x| number(x, what))
        .collect()
}

fn first<'a>(value: &'a Value, names: &[&str]) -> &'a Value {
    names.iter().map(|name| &value[*name]).find(|v| !v.is_null()).unwrap_or(&Value::Null)
}

/// SplitMix64's finalizer over a counter, as the baseline that gives a rule instead of windows uses it.
fn counter(seed: u64, c: u64) -> u64 {
    let step = (c + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut z = seed.wrapping_mul(0xD134_2543_DE82_EF95).wrapping_add(step);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Windows given as lists, or drawn by the rule `counter(seed, s*batch + b) mod (length - context - 1)`.
fn windows(
    listed: &Value,
    seed: u64,
    steps: usize,
    batch: usize,
    length: usize,
    context: usize,
) -> Vec<Vec<usize>> {
    if let Some(listed) = listed.as_array() {
        return listed
            .iter()
            .map(|w| numbers(w, "windows").into_iter().map(|x| x as usize).collect())
            .collect();
    }
    let room = (length - context - 1) as u64;
    (0..steps * batch)
        .map(|c| (counter(seed, c as u64) % room) as usize)
        .collect::<Vec<_>>()
        .chunks(batch)
        .map(<[usize]>::to_vec)
        .collect()
}

impl Baseline {
    /// Reads `baseline.json`, and from `baseline_f64.json`, where there is one, the figures that f64 gave.
    pub fn read(folder: &Path) -> Baseline {
        let b = json(&folder.join("baseline.json"));
        let precise = folder.join("baseline_f64.json");
        let figures = if precise.exists() { json(&precise) } else { b.clone() };
        let figures = if figures["f32"].is_null() { figures } else { figures["f32"].clone() };
        let name = b["corpus"]["file"].as_str().expect("the corpus has a name");
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let corpus = if own.exists() { own } else { shared().join("corpus").join(name) };
        let text =
            std::fs::read_to_string(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let model = &b["model"];
        let optimiser = &b["optimiser"];
        let (context, batch) =
            (number(&model["context"], "context") as usize, number(&model["batch"], "batch") as usize);
        let train = text.chars().count() * 9 / 10;
        let val = text.chars().count() - train;
        let losses = numbers(first(&figures, &["loss", "losses"]), "losses");
        let logits = &figures["logits_first_window_last_position_before_training"];
        Baseline {
            folder: folder.to_owned(),
            vocab: b["corpus"]["vocab"].as_str().expect("the corpus has a vocabulary").chars().collect(),
            context,
            batch,
            lr: number(&optimiser["lr"], "lr"),
            // The other baseline writes its rule out: lr*min(1,(s+1)/100).
            warmup_steps: optimiser["warmup_steps"].as_u64().unwrap_or(100),
            betas: [0, 1].map(|k| number(&optimiser["betas"][k], "betas")),
            eps: number(&optimiser["eps"], "eps"),
            weight_decay: number(&optimiser["weight_decay"], "weight_decay"),
            grad_clip: number(first(optimiser, &["grad_clip", "clip"]), "grad_clip"),
            windows: windows(
                first(&b, &["windows_list", "windows"]),
                4242,
                losses.len(),
                batch,
                train,
                context,
            ),
            val_windows: windows(
                first(&b, &["val_windows_list", "val_windows"]),
                777,
                20,
                batch,
                val,
                context,
            ),
            grad_norms: numbers(first(&figures, &["grad_norm_before_clip", "grad_norms"]), "grad norms"),
            val_loss: number(first(&figures, &["val_loss_after_last_step", "val_loss"]), "val_loss"),
            first_logits: (!logits.is_null()).then(|| numbers(logits, "logits")),
            losses,
            text,
        }
    }

    /// Token ids of the training part and of the validation part.
    pub fn tokens(&self) -> (Vec<u32>, Vec<u32>) {
        let id =
            |c| self.vocab.iter().position(|&v| v == c).expect("every character is in the vocabulary") as u32;
        let mut train: Vec<u32> = self.text.chars().map(id).collect();
        let val = train.split_off(train.len() * 9 / 10);
        (train, val)
    }
}
