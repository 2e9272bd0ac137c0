//! What hlx answers to command lines, files and folders that are at fault: one clear line, the right
//! exit code, and everything left as it was.

#[path = "common/program.rs"]
mod program;
#[path = "common/scale.rs"]
mod scale;

use std::fs;
use std::path::Path;

use program::{Done, Place, TINY, sums};

/// A command line that cannot work.
struct Fault {
    line: String,
    code: i32,
    /// What the message says: the flag or file at fault, and what to do.
    parts: &'static [&'static str],
}

fn fault(line: impl Into<String>, code: i32, parts: &'static [&'static str]) -> Fault {
    Fault { line: line.into(), code, parts }
}

/// A training run of a tiny model on the CPU executor.
fn train(flags: &str, code: i32, parts: &'static [&'static str]) -> Fault {
    fault(format!("train {TINY} {flags}"), code, parts)
}

/// A training run whose device or shape the flags decide.
fn bare_train(flags: &str, code: i32, parts: &'static [&'static str]) -> Fault {
    fault(format!("train --corpus sums.txt {flags}"), code, parts)
}

/// What is wrong with a command that should have failed in this way; empty if nothing is.
fn complaints(place: &Place, done: &Done, expected: &Fault) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut hold = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    hold(done.code == Some(expected.code), format!("exit code {:?}, not {}", done.code, expected.code));
    let errors: Vec<&str> = done.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    hold(errors.len() == 1, format!("{} lines of error", errors.len()));
    // Where the command line does not even parse, the parser's explanation goes on below.
    let is_usage = done.stderr.ends_with("try '--help'.\n");
    hold(
        is_usage || done.stderr.lines().last() == errors.last().copied(),
        "the error is not last".to_owned(),
    );
    for part in expected.parts {
        let said = errors.iter().any(|error| error.contains(part));
        hold(said || (is_usage && done.stderr.contains(part)), format!("the error lacks {part:?}"));
    }
    hold(!done.stderr.contains("panicked"), "a panic".to_owned());
    let start: String = done.stdout.chars().take(80).collect();
    hold(start.is_empty(), format!("on stdout: {start:?}"));
    let here = place.path("").display().to_string();
    hold(!done.stderr.contains(&here), "a path that was not typed".to_owned());
    wrong
}

/// Runs every command line, and checks after each that the folder is as it was before.
fn check(place: &Place, faults: &[Fault]) {
    let before = place.snapshot();
    let mut report = String::new();
    for fault in faults {
        let done = place.hlx(&fault.line);
        let mut wrong = complaints(place, &done, fault);
        let after = place.snapshot();
        let mut names = before.keys().chain(after.keys());
        if let Some(name) = names.find(|&name| before.get(name) != after.get(name)) {
            wrong.push(format!("{} is no longer as it was", name.display()));
        }
        if !wrong.is_empty() {
            report += &format!("\nhlx {}\n{}  => {}\n", fault.line, done.stderr, wrong.join("; "));
        }
        assert!(after == before, "later cases would start from something else:{report}");
    }
    assert!(report.is_empty(), "{report}");
    scale::report("hostile command lines, each one clear line, nothing changed", faults.len());
}

#[test]
fn corpora() {
    let place = Place::new();
    place.write("empty.txt", "");
    place.write("latin.txt", b"caf\xe9\n");
    place.write("short.txt", "abc");
    place.write("exact.txt", "abcdefgh");
    place.write("broken.jsonl", "{\"text\": \"one\"}\n{\"text\": \"two\n");
    place.write("other.jsonl", "{\"words\": \"one\"}\n");
    place.write("blank.jsonl", "\n \n");
    place.write("folder/inside.txt", "abc");
    check(
        &place,
        &[
            train("--corpus empty.txt", 1, &["empty.txt is empty", "give a corpus"]),
            train("--corpus missing.txt", 1, &["missing.txt", "give the path"]),
            train("--corpus folder", 1, &["corpus folder", "give the path"]),
            train("--corpus latin.txt", 1, &["latin.txt", "not UTF-8", "0xE9", "line 1", "convert"]),
            train("--corpus short.txt", 1, &["short.txt", "3 tokens", "--val-fraction 0"]),
            train(
                "--corpus exact.txt --val-fraction 0",
                1,
                &["exact.txt has 8 tokens", "--context 8", "needs 9"],
            ),
            train("--corpus broken.jsonl", 1, &["broken.jsonl line 2", "not valid JSON", "\"text\""]),
            train("--corpus other.jsonl", 1, &["other.jsonl line 1", "no \"text\"", "make every line"]),
            train("--corpus blank.jsonl", 1, &["blank.jsonl is empty"]),
            train("--corpus sums.txt --val-corpus missing.txt", 1, &["missing.txt", "give the path"]),
            train("--corpus sums.txt --val-corpus empty.txt", 1, &["empty.txt is empty"]),
            fault("verify --corpus short.txt --device cpu", 1, &["short.txt has 3 tokens", "longer text"]),
            fault("verify --corpus missing.txt --device cpu", 1, &["missing.txt", "give the path"]),
        ],
    );
}

#[test]
fn shapes_and_values() {
    let place = Place::new();
    place.write("long.txt", sums(75));
    let faults = [
        bare_train("--model giant", 2, &["--model", "giant", "nano, tiny, small, medium, gpt2"]),
        bare_train("--device cpu --d-model 130", 2, &["--d-model 130", "--n-head 4", "132 can"]),
        bare_train("--device cpu --d-model 18446744073709551615 --n-head 1", 2, &["--d-model 184"]),
        fault(
            "train --corpus long.txt --val-fraction 0 --device cpu --context 65536 --n-head 128",
            2,
            &["does not fit", "any --batch-size", "smaller --model or --context"],
        ),
        bare_train(
            "--device cpu --batch-size 65536",
            2,
            &["--batch-size 65536", "the largest that fits is "],
        ),
        bare_train("--device cpu --batch-size 99999999999", 2, &["--batch-size 99999999999", "1..=65536"]),
        bare_train("--precision fp8", 2, &["--precision", "choose from: exact"]),
        train("--corpus sums.txt --steps 0", 2, &["--steps 0", "at least 1"]),
        train("--corpus sums.txt --steps 18446744073709551615", 2, &["--steps 184", "is above"]),
        train("--corpus sums.txt --steps 5 --epochs 1", 2, &["--epochs and --steps", "give one"]),
        train("--corpus sums.txt --steps many", 2, &["'many' for '--steps <N>': give a whole number"]),
        train("--corpus sums.txt --steps -5", 2, &["'-5' for '--steps <N>': give a whole number, 0 or more"]),
        train("--corpus sums.txt --seed 99999999999999999999", 2, &["--seed", "too large"]),
        train(
            "--corpus sums.txt --grad-accum 1.5",
            2,
            &["'1.5' for '--grad-accum <N>': give a whole number"],
        ),
        train("--corpus sums.txt --lr fast", 2, &["'fast' for '--lr <RATE>': give a number"]),
        fault("verify --runs x", 2, &["'x' for '--runs <N>': give a whole number"]),
        train("--corpus sums.txt --lr -1", 2, &["--lr -1", "above 0"]),
        train("--corpus sums.txt --dropout 1", 2, &["--dropout 1", "below 1"]),
        train("--corpus sums.txt --checkpoint-every-steps 0", 2, &["--checkpoint-every 0"]),
        train("--corpus sums.txt --unknown 1", 2, &["--unknown"]),
        train("sums.txt", 2, &["sums.txt"]),
        fault("trane", 2, &["trane"]),
        fault("eval --corpus sums.txt", 2, &["--checkpoint"]),
        fault("verify --runs 0", 2, &["--runs"]),
        fault(
            "verify --batch-size 65536 --device cpu",
            2,
            &["--batch-size 65536", "the largest that fits is "],
        ),
        fault("bench-gemm 512 256", 2, &["3"]),
        fault(
            "bench-gemm 65536 65536 65536 --device cpu",
            2,
            &["65536", "it takes 48.0 GiB", "are free", "give smaller sizes"],
        ),
    ];
    check(&place, &faults);
}

#[test]
fn devices_that_are_not_there() {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 2 --out run --json")).json();
    let faults = [
        bare_train("--device 99", 4, &["--device"]),
        bare_train("--device nonesuch --out new", 4, &["--device"]),
        fault("verify --devices cpu,99", 4, &["--device"]),
        fault("eval --checkpoint run --corpus sums.txt --device 99", 4, &["--device"]),
        fault("generate --checkpoint run --device nonesuch", 4, &["--device"]),
        fault("bench-gemm 8 8 8 --device 99", 4, &["--device"]),
        fault("verify --runs 1 --steps 1 --devices cpu,,0", 2, &["--devices", "give auto, cpu"]),
        fault("generate --checkpoint run --device=", 2, &["--device", "give auto, cpu"]),
    ];
    check(&place, &faults);
}

#[test]
fn configuration_files() {
    let place = Place::new();
    place.write("unknown.toml", "lr = 1e-3\nleraning-rate = 2\n");
    place.write("syntax.toml", "\nlr = = 3\n");
    place.write("type.toml", "steps = \"many\"\n");
    place.write("latin.toml", b"model = \"nano\xe9\"\n");
    place.write("unnamed.toml", "device = \"\"\n");
    place.write("long.toml", "# a comment\n".repeat(25_000));
    place.write("nowhere.toml", "out = \"\"\n");
    let faults = [
        train("--config unknown.toml", 2, &["--config unknown.toml", "line 2", "`leraning-rate`"]),
        train("--config syntax.toml", 2, &["--config syntax.toml", "line 2"]),
        train("--config type.toml", 2, &["--config type.toml", "line 1", "many"]),
        train("--config latin.toml", 1, &["--config latin.toml", "UTF-8"]),
        train("--config missing.toml", 1, &["--config missing.toml"]),
        train("--config .", 1, &["--config ."]),
        train("--config long.toml", 1, &["--config long.toml", "no configuration", "256 KiB"]),
        train("--steps 1 --config unnamed.toml", 2, &["--config unnamed.toml", "line 1", "give auto, cpu"]),
        train("--corpus sums.txt --config nowhere.toml", 2, &["out is empty"]),
    ];
    check(&place, &faults);
}

#[test]
fn folders_for_runs() {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 2 --out run --json")).json();
    place.write("file", "");
    place.write("empty/file", "");
    let faults = [
        train("--corpus sums.txt --out file", 2, &["--out file is a file", "another folder"]),
        train("--corpus sums.txt --out file/run", 1, &["file/run", "--out"]),
        train("--corpus sums.txt --out run", 2, &["--out run already holds a run", "--resume"]),
        train("--resume missing", 1, &["--resume missing", "no such folder", "give a run's folder"]),
        train("--resume file", 1, &["--resume file", "no such folder", "give a run's folder"]),
        train("--resume empty", 1, &["--resume empty", "no checkpoint"]),
        train("--resume run", 2, &["taken all of its 2 steps", "--steps"]),
        train("--resume run --steps 4 --out other", 2, &["--out other", "--resume", "leave --out out"]),
        train("--corpus sums.txt --init-from missing", 1, &["--init-from missing is not a folder"]),
        train("--corpus sums.txt --init-from file", 1, &["--init-from file is not a folder"]),
        train("--corpus sums.txt --init-from empty", 1, &["--init-from empty", "config.json"]),
        fault(
            "eval --checkpoint missing --corpus sums.txt",
            1,
            &["--checkpoint missing", "give a run's folder"],
        ),
        fault("generate --checkpoint sums.txt", 1, &["--checkpoint sums.txt is not a folder"]),
        fault(
            "eval --checkpoint run --corpus sums.txt --device cpu --dump-logits ..",
            1,
            &["--dump-logits ..", "name of a file"],
        ),
        fault(
            "eval --checkpoint run --corpus sums.txt --device cpu --dump-logits file/x",
            1,
            &["--dump-logits file/x", "name of a file"],
        ),
        fault(
            "eval --checkpoint run --corpus sums.txt --device cpu --dump-logits empty",
            1,
            &["--dump-logits empty", "name of a file"],
        ),
    ];
    check(&place, &faults);
}

#[test]
fn verifications() {
    let place = Place::new();
    place.hlx(&format!("train --corpus sums.txt {TINY} --steps 2 --out run --json")).json();
    place.write("other.txt", sums(11));
    place.write("started.toml", "init-from = \"run\"\n");
    place.write("unknown.toml", "\nleraning-rate = 2\n");
    let verify = |flags: &str, code, parts| {
        fault(format!("verify --device cpu --corpus sums.txt {flags}"), code, parts)
    };
    let faults = [
        verify("--against missing.json", 1, &["--against missing.json", "hlx verify --save"]),
        verify("--against sums.txt", 1, &["--against sums.txt", "hlx verify --save"]),
        verify("--save missing/file.json", 1, &["--save missing/file.json", "name of a file"]),
        verify("--save run", 1, &["--save run", "name of a file"]),
        verify("--config started.toml", 2, &["--config", "leave init-from out"]),
        verify("--config unknown.toml", 2, &["--config unknown.toml", "line 2", "`leraning-rate`"]),
        verify("--checkpoint missing", 1, &["--checkpoint missing is not a folder"]),
        verify("--checkpoint run --from middle", 2, &["--from", "start or last"]),
        verify("--from last", 2, &["--checkpoint"]),
        verify("--keep-step 2", 2, &["--save"]),
        verify("--steps 2 --save new.json --keep-step 3", 2, &["--keep-step 3", "2 steps"]),
        verify("--checkpoint run --steps 3", 2, &["--checkpoint", "--steps"]),
        fault(
            "verify --device cpu --corpus other.txt --checkpoint run",
            1,
            &["other.txt is not the text", "--corpus"],
        ),
    ];
    check(&place, &faults);
}

/// A folder with a run of 2 and 4 steps, and copies of it, each damaged in its own way.
fn damaged_runs() -> Place {
    let place = Place::new();
    let line =
        format!("train --corpus sums.txt {TINY} --steps 4 --checkpoint-every-steps 2 --out run --json");
    place.hlx(&line).json();
    let change = |run: &str, file: &str, change: &dyn Fn(Vec<u8>) -> Option<Vec<u8>>| {
        place.copy_folder("run", run);
        // The older checkpoint would be taken in its place.
        fs::remove_dir_all(place.path(Path::new(run).join("step-00000002"))).expect("it was saved");
        let name = format!("{run}/step-00000004/{file}");
        match change(place.read(&name)) {
            Some(content) => place.write(&name, content),
            None => fs::remove_file(place.path(&name)).expect("the file can be removed"),
        }
    };
    change("flipped", "model.safetensors", &|mut bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        Some(bytes)
    });
    change("truncated", "model.safetensors", &|bytes| Some(bytes[..bytes.len() - 100].to_vec()));
    change("no-tokenizer", "tokenizer.json", &|_| None);
    change("no-manifest", "manifest.json", &|_| None);
    change("moments", "optimizer.safetensors", &|mut bytes| {
        *bytes.last_mut().expect("the file has bytes") ^= 0x80;
        Some(bytes)
    });
    change("no-model", "model.safetensors", &|_| None);
    change("manifest", "manifest.json", &|bytes| Some(bytes[..20].to_vec()));
    // Without a manifest, as folders from elsewhere are, the content itself must be refused.
    let foreign = |run: &str, file: &str, content: &dyn Fn(String) -> String| {
        change(run, file, &|bytes| Some(content(String::from_utf8(bytes).expect("text")).into_bytes()));
        fs::remove_file(place.path(Path::new(run).join("step-00000004/manifest.json")))
            .expect("it was saved");
    };
    foreign("json", "config.json", &|_| "{\"n_embd\": ".to_owned());
    foreign("heads", "config.json", &|text| text.replace("\"n_head\": 2", "\"n_head\": 0"));
    foreign("shape", "config.json", &|text| text.replace("\"n_inner\": 64", "\"n_inner\": 60"));
    foreign("huge", "config.json", &|text| {
        text.replace("\"n_embd\": 16", "\"n_embd\": 18446744073709551615")
    });
    foreign("kind", "config.json", &|text| text.replace("\"gpt2\"", "\"llama\""));
    foreign("words", "tokenizer.json", &|text| text.replace("WordLevel", "BPE"));
    place.copy_folder("run", "config");
    place.write("config/config.toml", "steps = \n");
    place
}

#[test]
fn checkpoints() {
    let place = damaged_runs();
    place.write("snow.txt", "1 and \u{2603} is 2.\n".repeat(20));
    place.write("other.txt", sums(11));
    let eval = |run: &str, code, parts| {
        fault(format!("eval --checkpoint {run} --corpus sums.txt --device cpu"), code, parts)
    };
    let resume = |flags: &str, parts| fault(format!("train --steps 8 --resume {flags}"), 1, parts);
    let faults = [
        eval("flipped", 1, &["model.safetensors", "damaged", "another checkpoint"]),
        eval("truncated", 1, &["model.safetensors", "damaged", "bytes"]),
        eval("no-model", 1, &["model.safetensors"]),
        eval("no-tokenizer", 1, &["--checkpoint", "no tokenizer.json"]),
        eval("manifest", 1, &["manifest.json", "damaged"]),
        eval("json", 1, &["config.json", "not valid JSON"]),
        eval("heads", 1, &["config.json", "n_head"]),
        eval("shape", 1, &["model.safetensors", "mlp.c_fc", "[16, 64]", "[16, 60]"]),
        eval("huge", 1, &["config.json", "n_embd"]),
        eval("kind", 1, &["config.json", "llama", "gpt2"]),
        eval("words", 1, &["tokenizer.json", "WordLevel"]),
        resume("flipped", &["flipped", "none of its checkpoints is whole"]),
        resume("flipped/step-00000004", &["model.safetensors", "damaged"]),
        resume("moments/step-00000004", &["optimizer.safetensors", "damaged"]),
        resume("no-manifest/step-00000004", &["no manifest.json", "--init-from"]),
        resume("no-tokenizer/step-00000004", &["tokenizer.json"]),
        resume("run/step-00000003", &["step-00000003"]),
        resume("run --corpus other.txt", &["other.txt is not the text", "--init-from"]),
        resume("run --corpus snow.txt", &["snow.txt", "'\u{2603}'", "line 1"]),
        resume("run --val-corpus snow.txt", &["snow.txt", "'\u{2603}'"]),
        fault("train --steps 8 --resume run --d-model 32", 2, &["--d-model 32", "16", "leave --d-model out"]),
        fault("train --resume config", 2, &["--resume config", "config.toml", "line 1"]),
        fault("train --corpus sums.txt --init-from run --n-layer 2", 2, &["--n-layer 2", "--init-from run"]),
        fault("train --corpus snow.txt --init-from run", 1, &["snow.txt", "'\u{2603}'"]),
        fault(
            "eval --checkpoint run --corpus snow.txt",
            1,
            &["snow.txt", "'\u{2603}' (U+2603)", "leave it out"],
        ),
        fault(
            "eval --checkpoint run --corpus sums.txt --device cpu --batch-size 99999999",
            2,
            &["--batch-size 99999999", "the largest that fits is "],
        ),
        fault("generate --checkpoint run --prompt 1\u{2603}", 1, &["--prompt", "'\u{2603}'", "character 2"]),
        fault("generate --checkpoint run --prompt=", 2, &["--prompt is empty", "leave it out"]),
        fault("generate --checkpoint run --temperature -1", 2, &["--temperature", "at least 0"]),
        fault("generate --checkpoint truncated", 1, &["model.safetensors", "damaged"]),
    ];
    check(&place, &faults);
}

/// Windows has other rights, and a superuser needs none: nothing is unwritable for them.
#[cfg(unix)]
#[test]
fn unwritable_folders() {
    use std::os::unix::fs::PermissionsExt;

    let place = Place::new();
    fs::create_dir(place.path("locked")).expect("a folder can be made");
    let allow = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(place.path("locked"), permissions).expect("the folder is ours");
    };
    allow(0o555);
    if fs::write(place.path("locked/probe"), "").is_ok() {
        eprintln!(
            "run as a superuser, who can write everywhere: only /dev/null stands in for a locked folder"
        );
        fs::remove_file(place.path("locked/probe")).expect("the probe was just written");
        check(&place, &[train("--corpus sums.txt --out /dev/null/run", 1, &["/dev/null/run", "--out"])]);
        return;
    }
    let faults = [
        train("--corpus sums.txt --out locked", 1, &["locked", "give --out another folder"]),
        train("--corpus sums.txt --out locked/run", 1, &["locked/run", "give --out another folder"]),
    ];
    check(&place, &faults);
    allow(0o755);
}

/// The reader of progress or of a result goes away.
#[cfg(unix)]
#[test]
fn closed_outputs() {
    use std::process::Stdio;

    let place = Place::new();
    let line = format!("train --corpus sums.txt {TINY} --steps 3 --out");
    let mut command = place.command(&format!("{line} unwatched --json"));
    let mut child = command.spawn().expect("hlx starts");
    drop(child.stderr.take());
    assert_eq!(child.wait().expect("hlx ends").code(), Some(0), "training goes on unwatched");
    assert!(place.path("unwatched/step-00000003").is_dir());

    let mut child = place.command("devices").spawn().expect("hlx starts");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("hlx ends").code(), Some(0), "nobody is left to tell");

    if cfg!(target_os = "linux") {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has /dev/full");
        let done = Done::of("devices", place.command("devices").stdout(Stdio::from(full)));
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.starts_with("error: cannot write to stdout: "), "{}", done.stderr);
    }
}

/// A file name that no configuration file can hold.
#[cfg(target_os = "linux")]
#[test]
fn a_corpus_whose_name_is_not_unicode() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let place = Place::new();
    let name = OsStr::from_bytes(b"sums-\xff.txt");
    fs::copy(place.path("sums.txt"), place.path(name)).expect("Linux takes every name");
    let before = place.snapshot();
    let line = format!("train {TINY} --steps 3 --out run --corpus");
    let done = Done::of(&line, place.command(&line).arg(name));
    let expected = fault(line, 2, &["config.toml", "invalid UTF-8", "rename"]);
    assert_eq!(complaints(&place, &done, &expected), Vec::<String>::new(), "{}", done.stderr);
    assert_eq!(place.snapshot(), before);
}
