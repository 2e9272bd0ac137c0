//! What the user typed: the command line, and nothing of what it means.

// The comments here are the help that the command shows, where brackets are no links.
#![allow(rustdoc::broken_intra_doc_links)]

use std::error::Error as _;
use std::num::{IntErrorKind, ParseFloatError, ParseIntError};
use std::path::PathBuf;

use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{DeviceChoice, Precision, Preset, ProductLayout, ResumeFrom, RetraceFrom, TrainOptions};

/// Trains GPT-style transformers through Vulkan compute, with the same bits on every device
#[derive(Parser, Debug)]
#[command(name = "hlx", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Say more on stderr: -v for what happens, -vv for details (RUST_LOG says it finer)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

impl Cli {
    /// What was typed; ends the program with its help or with what is wrong.
    pub fn from_command_line() -> Cli {
        Cli::try_parse().unwrap_or_else(|error| named_number(error).exit())
    }
}

/// Of a number that is none, the parser says what is wrong with the text. This says what is wanted.
pub fn named_number(error: clap::Error) -> clap::Error {
    let Some(source) = error.source() else { return error };
    let wanted = match source.downcast_ref::<ParseIntError>().map(ParseIntError::kind) {
        Some(IntErrorKind::PosOverflow) => "this number is too large",
        Some(_) => "give a whole number, 0 or more",
        None if source.is::<ParseFloatError>() => "give a number",
        None => return error,
    };
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let (value, flag) = (context(ContextKind::InvalidValue), context(ContextKind::InvalidArg));
    let message = format!("invalid value '{value}' for '{flag}': {wanted}");
    Cli::command().error(ErrorKind::ValueValidation, message)
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 verification found a difference, \
                          4 no usable device, 130 interrupted after saving";

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Train a model on a text; without options, a small one on a built-in text in a few minutes
    Train(Box<TrainArgs>),
    /// Measure a model on a text: loss, perplexity, bits per character
    Eval(EvalArgs),
    /// Write text with a model
    Generate(GenerateArgs),
    /// Time training steps and their kernels, beside what the device can do at best
    Bench(BenchArgs),
    /// Time the matrix product and measure its error
    BenchGemm(BenchGemmArgs),
    /// Train the same steps several times and compare every weight, moment and loss bit for bit
    Verify(VerifyArgs),
    /// List the devices: what each offers, and whether it keeps the exact contract
    Devices(DevicesArgs),
}

/// `hlx train`.
#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct TrainArgs {
    #[command(flatten)]
    pub options: TrainOptions,
    /// Read options from a TOML file, under the flags' names without dashes; flags win
    #[arg(long, value_name = "FILE", help_heading = "Run")]
    pub config: Option<PathBuf>,
    /// Go on with a run: its folder, one of its checkpoints, or auto for the newest whole checkpoint of --out
    #[arg(
        long,
        value_name = "auto|PATH",
        num_args = 0..=1,
        default_missing_value = "auto",
        help_heading = "Run"
    )]
    pub resume: Option<ResumeFrom>,
    /// Take the tiles of matrix products that the estimates say, instead of timing them on the device first
    /// and keeping what was found in the user's cache folder (HLX_CACHE_DIR names another)
    #[arg(long, help_heading = "Run")]
    pub no_tune: bool,
    /// Print the result as one JSON value on stdout
    #[arg(long, help_heading = "Run")]
    pub json: bool,
}

/// `hlx eval`.
#[derive(Args, Debug)]
pub struct EvalArgs {
    /// A run's folder (its latest checkpoint), a checkpoint, or a GPT-2 model folder
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// The text, .txt or .jsonl: all of it is measured, each position once
    #[arg(long, value_name = "FILE")]
    pub corpus: PathBuf,
    /// Windows that the device works on at once
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = at_least_one())]
    pub batch_size: u64,
    /// Where to run: auto, cpu, or a device's number or name from `hlx devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// What the arithmetic promises: exact (the same bits on every device)
    #[arg(long, value_name = "NAME", default_value_t = Precision::Exact)]
    pub precision: Precision,
    /// Print the result as one JSON value on stdout
    #[arg(long)]
    pub json: bool,
    /// Write the first window's tokens and logits to a file: {"tokens": [T], "logits": [T][vocab_size]}
    #[arg(long, value_name = "FILE", hide = true)]
    pub dump_logits: Option<PathBuf>,
}

/// `hlx generate`.
#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct GenerateArgs {
    /// A run's folder (its latest checkpoint), a checkpoint, or a GPT-2 model folder
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// Text to go on from [default: the start of a text]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// How many tokens to write at most; an end-of-text token ends the text sooner
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub max_tokens: u64,
    /// Below 1 the likely characters become likelier, 0 always takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.8, value_parser = parse_temperature)]
    pub temperature: f64,
    /// Draw from the K likeliest tokens only
    #[arg(long, value_name = "K", value_parser = at_least_one())]
    pub top_k: Option<u64>,
    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = parse_top_p)]
    pub top_p: Option<f64>,
    /// The same seed writes the same text
    #[arg(long, value_name = "N", default_value_t = 1337)]
    pub seed: u64,
    /// Where to run: auto, cpu, or a device's number or name from `hlx devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// What the arithmetic promises: exact (the same bits on every device)
    #[arg(long, value_name = "NAME", default_value_t = Precision::Exact)]
    pub precision: Precision,
}

/// `hlx bench`.
#[derive(Args, Debug)]
#[command(after_help = BENCH_JSON)]
pub struct BenchArgs {
    /// Preset to train; may be given several times [default: all on a GPU, else nano and tiny]
    #[arg(long, value_name = "NAME")]
    pub model: Vec<Preset>,
    /// Windows of a step [default: 64 on a GPU, 32 for medium and 16 for gpt2; else 12 for nano, 16 for tiny
    /// and 4]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Tokens of a window, in place of the preset's
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Different tokens
    #[arg(long, value_name = "N", default_value_t = 65, value_parser = clap::value_parser!(u32).range(1..))]
    pub vocab_size: u32,
    /// Steps to time, after some that warm the device up [default: two seconds of them, from 10 to 500]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: Option<u32>,
    /// Time each dispatch of a step as well, one after the other, and list them by kernel and shape
    #[arg(long)]
    pub kernels: bool,
    /// Leave out the device's measured peaks, and the shares of them
    #[arg(long)]
    pub no_peaks: bool,
    /// Where to run: auto, cpu, or a device's number or name from `hlx devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Only this precision [default: each that the device offers]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
    /// Take the tiles of matrix products that the estimates say, instead of timing them on the device first
    /// and keeping what was found in the user's cache folder (HLX_CACHE_DIR names another)
    #[arg(long)]
    pub no_tune: bool,
    /// Print the result as one JSON value on stdout
    #[arg(long)]
    pub json: bool,
}

const BENCH_JSON: &str = "\
A step's FLOPs are 6 for each weight of a matrix and 6 L d T for attention, for each token. Its time is \
the median over steps by the host's clock while the host runs ahead; `busy` is the part of the time in \
which the device worked on a submit, by its own clock, over up to 30 further steps.

JSON keys: device, driver, peaks {memory_gb_s, copy_gb_s, stream_gb_s, products [{precision, n, gflops}]}, \
steps [{model, precision, batch_size, context, vocab_size, steps, step_ms, mean_step_ms, tokens_per_second, \
gflops, share_of_peak, busy_share, busy_ms, memory_bytes, loss, kernels [{kernel, shape, specialization, \
count, total_us, gflops, gb_s}]}]; null for what was not measured.";

/// `hlx bench-gemm`.
#[derive(Args, Debug)]
#[command(after_help = BENCH_GEMM_JSON)]
pub struct BenchGemmArgs {
    /// C[M,N] = A[M,K] B[K,N]; without sizes, a table of them
    #[arg(
        num_args = 3,
        value_names = ["M", "K", "N"],
        value_parser = clap::value_parser!(u32).range(1..=65536)
    )]
    pub sizes: Option<Vec<u32>>,
    /// Which operands are stored transposed: nn, nt (B) or tn (A)
    #[arg(long, value_name = "NAME", default_value_t = ProductLayout::Nn)]
    pub layout: ProductLayout,
    /// Where to run: auto, cpu, or a device's number or name from `hlx devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Only this precision [default: each that the device offers]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
    /// Take the tiles of matrix products that the estimates say, instead of timing them on the device first
    /// and keeping what was found in the user's cache folder (HLX_CACHE_DIR names another)
    #[arg(long)]
    pub no_tune: bool,
    /// Print the result as one JSON value on stdout
    #[arg(long)]
    pub json: bool,
}

const BENCH_GEMM_JSON: &str = "\
The time is the median over batches on a warm device, by its own clock; a batch goes through several pairs \
of random operands, so that they do not stay in a cache. Where a precision packs its factors into 16 bits, \
they are packed before, and packing one pair is timed apart. Errors are against an f64 product: of every \
element up to 134 million multiplications, else of at least 2,000 drawn from all parts of the result.

JSON keys, a list of: device, precision, layout, m, k, n, ms, fastest_ms, packing_ms (null if nothing is \
packed), batches, products_per_batch, operand_sets, gflops, max_relative_error (over the root mean square), \
frobenius_error (the norm of the errors over that of the product), checked_elements.";

/// `hlx verify`.
#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
pub struct VerifyArgs {
    /// How many times to train on each device [default: 3; 1 with --against]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub runs: Option<u64>,
    /// How many steps to train [default: 20, or those of --against]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub steps: Option<u64>,
    /// Where to train: auto, cpu, or a device's number or name from `hlx devices`
    #[arg(long, value_name = "DEVICE", default_value = "auto", conflicts_with = "devices")]
    pub device: DeviceChoice,
    /// Compare these devices with one another: cpu,0,...
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub devices: Vec<DeviceChoice>,
    /// Text to train on [default: the one built into hlx]
    #[arg(long, value_name = "FILE")]
    pub corpus: Option<PathBuf>,
    /// Preset shape: nano, tiny, small, medium or gpt2 [default: nano]
    #[arg(long, value_name = "NAME")]
    pub model: Option<Preset>,
    /// Read options of `hlx train` from a TOML file; the flags here win
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Tokens that the model sees at once, in place of the preset's
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
    /// Windows that the device works on at once [default: 12]
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Batches whose gradients are added up for one step [default: 2]
    #[arg(long, value_name = "N")]
    pub grad_accum: Option<usize>,
    /// Probability of zeroing an activation [default: 0.1]
    #[arg(long, value_name = "P")]
    pub dropout: Option<f64>,
    /// Seed of the initial weights, the windows' order and dropout [default: 1337]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// What the arithmetic promises: exact (the same bits on every device) [default: exact]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,
    /// Keep the first run's digests in a file, to compare with on another machine
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
    /// Keep step N beside that file as well, in FILE.step-N: its inputs and what every operation wrote, bit
    /// for bit (220 MB for nano)
    #[arg(long, value_name = "N", value_parser = at_least_one(), requires = "save")]
    pub keep_step: Option<u64>,
    /// Train what a file of --save describes, and compare with it; with FILE.step-N beside it, a difference
    /// in step N is followed to its first operation and element
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Train a checkpoint's run again, and say whether the checkpoint is what comes out
    #[arg(long, value_name = "DIR", conflicts_with_all = CHECKPOINT_DECIDES)]
    pub checkpoint: Option<PathBuf>,
    /// Where --checkpoint begins: start is where the run began or last changed its options; last is the
    /// newest whole checkpoint kept before this one that leads to it, which is quicker and takes that one on
    /// trust. Every kept checkpoint on the way is compared too [default: start]
    #[arg(long, value_name = "start|last", requires = "checkpoint")]
    pub from: Option<RetraceFrom>,
    /// Take the tiles of matrix products that the estimates say, instead of timing them on the device first
    /// and keeping what was found in the user's cache folder (HLX_CACHE_DIR names another)
    #[arg(long)]
    pub no_tune: bool,
    /// Print the result as one JSON value on stdout
    #[arg(long)]
    pub json: bool,
}

/// What a checkpoint's own run says, and a flag cannot beside it.
const CHECKPOINT_DECIDES: [&str; 13] = [
    "runs",
    "steps",
    "devices",
    "model",
    "config",
    "context",
    "batch_size",
    "grad_accum",
    "dropout",
    "seed",
    "precision",
    "save",
    "against",
];

impl VerifyArgs {
    /// What was said about the training to be verified.
    pub fn train_options(&self) -> TrainOptions {
        TrainOptions {
            corpus: self.corpus.clone(),
            model: self.model,
            context: self.context,
            batch_size: self.batch_size,
            grad_accum: self.grad_accum,
            dropout: self.dropout,
            seed: self.seed,
            precision: self.precision,
            steps: self.steps,
            ..TrainOptions::default()
        }
    }

    /// What holds where nothing was said: a few steps that use every part of the program.
    pub fn defaults() -> TrainOptions {
        TrainOptions {
            grad_accum: Some(2),
            dropout: Some(0.1),
            steps: Some(20),
            val_fraction: Some(0.0),
            ..TrainOptions::default()
        }
    }

    /// The devices to train on, at least one.
    pub fn devices(&self) -> Vec<DeviceChoice> {
        if self.devices.is_empty() { vec![self.device.clone()] } else { self.devices.clone() }
    }
}

/// `hlx devices`.
#[derive(Args, Debug)]
pub struct DevicesArgs {
    /// Print the list as one JSON value on stdout
    #[arg(long)]
    pub json: bool,
}

fn at_least_one() -> clap::builder::RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(1..)
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    in_range(text, "at least 0", |t| t >= 0.0 && t.is_finite())
}

fn parse_top_p(text: &str) -> Result<f64, String> {
    in_range(text, "above 0 and at most 1", |p| p > 0.0 && p <= 1.0)
}

fn in_range(text: &str, range: &str, holds: impl Fn(f64) -> bool) -> Result<f64, String> {
    text.parse().ok().filter(|&x| holds(x)).ok_or_else(|| format!("not a number {range}"))
}
