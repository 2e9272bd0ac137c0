//! What hlx answers to a command line or configuration that cannot be meant, and what a good one comes to.

use std::path::PathBuf;

use clap::{CommandFactory, Parser};
use hlx::cli::{Cli, Command};
use hlx::config::{
    CheckpointEvery, DeviceChoice, Length, ModelConfig, Preset, ResumeFrom, TrainConfig, TrainOptions,
};
use hlx::error::Error;

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(["hlx"].into_iter().chain(line.split_whitespace())).map(|cli| cli.command)
}

/// The configuration of a `train` command line, over a configuration file's text.
fn train_over(line: &str, file: &str) -> Result<TrainConfig, Error> {
    let Command::Train(train) = parse(&format!("train {line}")).unwrap() else { panic!("not train") };
    TrainConfig::resolve(train.options.over(TrainOptions::parse(file).unwrap()), None)
}

fn train(line: &str) -> Result<TrainConfig, Error> {
    train_over(line, "")
}

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn every_flag_is_explained() {
    for command in Cli::command().get_subcommands() {
        assert!(command.get_about().is_some(), "{}", command.get_name());
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
        }
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_flag() {
    let cases = [
        ("", "Usage"),
        ("trian", "train"),
        ("train --modell nano", "--model"),
        ("train --model giant", "nano, tiny, small, medium, gpt2"),
        ("train --precision fp8", "choose from: exact"),
        ("train --steps ten", "--steps"),
        ("train --steps -5", "--steps"),
        ("train --batch-size 1.5", "--batch-size"),
        ("train --seed -1", "--seed"),
        ("train --lr", "--lr"),
        ("train corpus.txt", "corpus.txt"),
        ("eval --corpus a.txt", "--checkpoint"),
        ("eval --checkpoint a", "--corpus"),
        ("eval --checkpoint a --corpus b --batch-size 0", "--batch-size"),
        ("generate", "--checkpoint"),
        ("generate --checkpoint a --temperature -1", "--temperature"),
        ("generate --checkpoint a --temperature nan", "--temperature"),
        ("generate --checkpoint a --top-p 1.5", "--top-p"),
        ("generate --checkpoint a --top-k 0", "--top-k"),
        ("bench-gemm 512 256", "3"),
        ("bench-gemm 0 1 1", "0 is not in 1..=65536"),
        ("verify --runs 0", "--runs"),
        ("verify --device cpu --devices cpu,0", "--device"),
    ];
    for (line, part) in cases {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        assert!(error.to_string().contains(part), "{line}: {error} lacks {part:?}");
    }
}

#[test]
fn values_that_cannot_be_are_refused_in_one_line_with_the_flag() {
    let cases = [
        ("--d-model 130", "--d-model 130"),
        ("--d-model 130", "--n-head 4"),
        ("--d-model 130", "132"),
        ("--d-model 1024 --n-head 2", "--n-head 4"),
        ("--n-head 0", "--n-head 0"),
        ("--n-layer 0", "--n-layer 0"),
        ("--d-model 0", "--d-model 0"),
        ("--d-ff 0", "--d-ff 0"),
        ("--context 1", "--context 1"),
        ("--dropout 1", "--dropout 1"),
        ("--dropout -0.1", "--dropout -0.1"),
        ("--dropout nan", "--dropout NaN"),
        ("--epochs 1 --steps 2", "--epochs and --steps"),
        ("--epochs 0", "--epochs 0"),
        ("--steps 0", "--steps 0"),
        ("--batch-size 0", "--batch-size 0"),
        ("--grad-accum 0", "--grad-accum 0"),
        ("--lr 0", "--lr 0"),
        ("--lr -0.001", "--lr -0.001"),
        ("--lr nan", "--lr NaN"),
        ("--lr inf", "--lr inf"),
        ("--lr 1e-3 --min-lr 1e-2", "--min-lr 0.01"),
        ("--min-lr -1", "--min-lr -1"),
        ("--weight-decay -0.1", "--weight-decay -0.1"),
        ("--beta1 1", "--beta1 1"),
        ("--beta2 0.999999", "--beta2 0.999999"),
        ("--beta2 -0.5", "--beta2 -0.5"),
        ("--eps 0", "--eps 0"),
        ("--grad-clip -1", "--grad-clip -1"),
        ("--seed 9223372036854775808", "--seed 9223372036854775808"),
        ("--val-fraction 1", "--val-fraction 1"),
        ("--val-fraction 0.1 --val-corpus v.txt", "--val-fraction and --val-corpus"),
        (
            "--checkpoint-every 1 --checkpoint-every-steps 5",
            "--checkpoint-every and --checkpoint-every-steps",
        ),
        ("--checkpoint-every-steps 0", "--checkpoint-every-steps 0"),
    ];
    for (line, part) in cases {
        let error = train(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
        let message = error.to_string();
        assert!(message.contains(part), "{line}: {message:?} lacks {part:?}");
        assert!(!message.contains('\n'), "{line}: one line, not {message:?}");
    }
}

#[test]
fn a_bad_configuration_file_is_named_with_line_and_key() {
    let cases = [
        ("lr = 1e-3\nleraning-rate = 2", "line 2: unknown field `leraning-rate`"),
        ("steps = \"many\"", "line 1: invalid type"),
        ("steps = -1", "line 1: invalid value"),
        ("\n\nlr = ", "line 3"),
        ("model = \"giant\"", "nano, tiny"),
        ("precision = \"fp8\"", "choose from: exact"),
        ("[train]\nlr = 1", "line 1: unknown field `train`"),
    ];
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("run.toml");
    for (text, part) in cases {
        std::fs::write(&path, text).unwrap();
        let error = TrainOptions::load("--config", &path).expect_err(text);
        assert_eq!(error.exit_code(), 2);
        let message = error.to_string();
        assert!(message.starts_with("--config ") && message.contains("run.toml"), "{message:?}");
        assert!(message.contains(part), "{message:?} lacks {part:?}");
        assert!(!message.contains('\n'), "one line: {message:?}");
    }
    let message = TrainOptions::load("--config", "no/such.toml".as_ref()).unwrap_err().to_string();
    assert!(message.contains("--config no/such.toml"), "{message}");
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = train("").unwrap();
    assert_eq!(config.model_config(65), Preset::Nano.config(65));
    assert_eq!((config.corpus.clone(), config.val_fraction), (None, 0.1));
    assert_eq!((config.length, config.batch_size, config.grad_accum), (Length::Steps(3000), 12, 1));
    assert_eq!((config.lr, config.min_lr, config.warmup_steps), (1e-3, 1e-4, 100));
    assert_eq!((config.beta1, config.beta2, config.eps), (0.9, 0.99, 1e-8));
    assert_eq!((config.weight_decay, config.grad_clip, config.seed), (0.1, 1.0, 1337));
    assert_eq!(config.checkpoint_every, CheckpointEvery::Epochs(10));
    assert_eq!(config.device, DeviceChoice::Auto);
}

#[test]
fn presets_are_the_documented_ones() {
    let shape = |name: &str| {
        let config = train(&format!("--model {name}")).unwrap().model_config(1);
        (config.n_layer, config.d_model, config.n_head, config.context, config.d_ff)
    };
    assert_eq!(shape("nano"), (4, 128, 4, 64, 512));
    assert_eq!(shape("tiny"), (4, 256, 4, 128, 1024));
    assert_eq!(shape("small"), (6, 512, 8, 256, 2048));
    assert_eq!(shape("medium"), (12, 768, 12, 512, 3072));
    assert_eq!(shape("gpt2"), (12, 768, 12, 1024, 3072));
    let wider = train("--model tiny --d-model 192").unwrap().model_config(1);
    assert_eq!((wider.d_model, wider.d_ff, wider.n_layer), (192, 768, 4), "d_ff follows d_model");
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = "model = \"tiny\"\nn-layer = 3\nlr = 2e-3\nbatch-size = 5\nepochs = 7\nval-fraction = 0.2";
    let config = train_over("--lr 3e-3", file).unwrap();
    assert_eq!((config.lr, config.batch_size, config.length), (3e-3, 5, Length::Epochs(7)));
    assert_eq!((config.model_config(1).n_layer, config.model_config(1).d_model), (3, 256));
    let config = train_over("--steps 9 --model small --val-corpus v.txt", file).unwrap();
    assert_eq!(config.length, Length::Steps(9), "--steps takes the place of the file's epochs");
    assert_eq!(config.model_config(1).n_layer, 6, "--model takes the place of the file's whole shape");
    assert_eq!(config.val_fraction, 0.0);
    assert!(train_over("", "steps = 1\nepochs = 1").is_err());
}

#[test]
fn a_saved_configuration_loads_back_to_the_same() {
    let lines = [
        "",
        "--corpus a.txt --model small --n-head 4 --epochs 3 --batch-size 3 --grad-accum 2 --lr 0.1 --min-lr \
         0.01 --warmup-steps 0 --weight-decay 0 --beta1 0 --beta2 0.99999 --eps 1e-6 --grad-clip 0 --dropout \
         0.3 --seed 9223372036854775807 --val-corpus b.jsonl --eval-every 0 --checkpoint-every-steps 4 \
         --keep-last 0 --device llvmpipe --precision exact --init-from m",
        "--device 2 --checkpoint-every 0 --val-fraction 0",
    ];
    for line in lines {
        let config = train(line).unwrap();
        let text = config.to_toml().unwrap();
        let again = TrainConfig::resolve(TrainOptions::parse(&text).unwrap(), None).unwrap();
        assert_eq!(again.to_toml().unwrap(), text);
        // Files are written down absolutely, so that the run can go on from any folder.
        let absolute = |path: Option<PathBuf>| path.map(|path| std::path::absolute(path).unwrap());
        let mut config = config;
        for path in [&mut config.corpus, &mut config.val_corpus, &mut config.init_from] {
            *path = absolute(path.take());
        }
        assert_eq!(again, config, "{text}");
    }
    let placed = train("--out somewhere").unwrap().to_toml().unwrap();
    assert!(!placed.contains("somewhere"), "where a run went is not what it was: {placed}");
}

#[test]
fn what_decides_the_weights_decides_the_hash() {
    let hash = |line: &str| train(line).unwrap().training_hash().unwrap();
    for same in ["--device cpu", "--eval-every 5", "--out x", "--model nano", "--keep-last 1"] {
        assert_eq!(hash(same), hash(""), "{same}");
    }
    for other in ["--seed 2", "--lr 2e-3", "--batch-size 11", "--n-layer 3", "--dropout 0.1", "--beta2 0.9"] {
        assert_ne!(hash(other), hash(""), "{other}");
    }
}

#[test]
fn a_model_folder_gives_the_shape() {
    let base = ModelConfig { n_layer: 2, layer_norm_eps: 1e-6, ..Preset::Nano.config(65) };
    let resolve = |line: &str| {
        let Command::Train(train) = parse(&format!("train --init-from m {line}")).unwrap() else { panic!() };
        TrainConfig::resolve(train.options, Some(&base))
    };
    let config = resolve("--dropout 0.2 --n-layer 2").unwrap();
    assert_eq!(config.model_config(65), ModelConfig { dropout: 0.2, ..base.clone() });
    let message = resolve("--n-layer 3").unwrap_err().to_string();
    assert!(message.contains("--n-layer 3") && message.contains("--init-from m"), "{message}");
}

#[test]
fn devices_and_resume_are_understood() {
    let device = |text: &str| train(&format!("--device {text}")).unwrap().device;
    assert_eq!(device("auto"), DeviceChoice::Auto);
    assert_eq!(device("cpu"), DeviceChoice::Cpu);
    assert_eq!(device("1"), DeviceChoice::Index(1));
    assert_eq!(device("llvmpipe"), DeviceChoice::Name("llvmpipe".into()));
    let resume = |line: &str| {
        let Command::Train(train) = parse(&format!("train {line}")).unwrap() else { panic!() };
        train.resume
    };
    assert_eq!(resume(""), None);
    assert_eq!(resume("--resume"), Some(ResumeFrom::Auto));
    assert_eq!(resume("--resume auto --steps 3"), Some(ResumeFrom::Auto));
    assert_eq!(resume("--resume --steps 3"), Some(ResumeFrom::Auto));
    assert_eq!(resume("--resume a/b"), Some(ResumeFrom::Path("a/b".into())));
    let Command::Verify(verify) = parse("verify --devices cpu,0,llvmpipe").unwrap() else { panic!() };
    let expected = [DeviceChoice::Cpu, DeviceChoice::Index(0), DeviceChoice::Name("llvmpipe".into())];
    assert_eq!(verify.devices(), expected);
}
