//! The source keeps its shape: which module imports which, where `unsafe` may stand, how files are written.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of src/ and the modules that it may import, beside itself. Calls go one way: commands,
/// train, model, ops, and the plain data below; the two executors stand beside and meet the rest only
/// through the recording.
const IMPORTS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("format", &[]),
    ("exact", &[]),
    ("kernels", &["precision", "recording"]),
    ("precision", &[]),
    ("recording", &["error", "kernels", "precision"]),
    ("config", &["error", "precision"]),
    ("cli", &["config"]),
    ("ops", &["error", "exact", "kernels", "precision", "recording"]),
    ("model", &["config", "error", "exact", "kernels", "ops", "precision", "recording"]),
    ("cpu", &["error", "kernels", "ops", "recording"]),
    ("vulkan", &["error", "format", "kernels", "precision", "recording"]),
    ("data", &["config", "error", "exact", "ops"]),
    ("checkpoint", &["config", "data", "error", "model"]),
    ("report", &["checkpoint", "error", "format"]),
    ("interrupt", &["error", "report"]),
    (
        "train",
        &[
            "checkpoint",
            "config",
            "data",
            "error",
            "exact",
            "interrupt",
            "kernels",
            "model",
            "ops",
            "recording",
            "report",
        ],
    ),
    (
        "commands",
        &[
            "checkpoint",
            "cli",
            "config",
            "cpu",
            "data",
            "error",
            "exact",
            "interrupt",
            "kernels",
            "model",
            "ops",
            "recording",
            "report",
            "train",
            "vulkan",
        ],
    ),
];

const MAX_LINES: usize = 500;
const MAX_COLUMNS: usize = 110;

/// What no file may hold, in halves, so that this one does not.
const FORBIDDEN: &[[&str; 2]] = &[
    ["TO", "DO"],
    ["FIX", "ME"],
    ["todo", "!("],
    ["unimplemented", "!("],
    ["dbg", "!("],
    ["/wo", "rk/"],
    ["/ho", "me/"],
    ["/ro", "ot/"],
    ["/Use", "rs/"],
    ["C:", "\\"],
];

/// Crates that only src/vulkan knows.
const VULKAN_CRATES: [&str; 2] = ["ash", "gpu_allocator"];

/// A file of the project: its path from the root with forward slashes, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The module of src/ that the file belongs to.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let name = path.split('/').next().expect("splitting gives at least one part");
        Some(name.strip_suffix(".rs").unwrap_or(name)).filter(|&name| name != "main" && name != "lib")
    }

    /// True if `super` is the crate's root here.
    fn is_module_root(&self) -> bool {
        let path = self.path.strip_prefix("src/").unwrap_or_default();
        !path.contains(['.', '?']) || path.matches('/').count() == 1 && path.ends_with("/mod.rs")
    }
}

/// Every source file of the project.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "build", "tests", "benches", "shaders", "docs", "fuzz/fuzz_targets"]
            .map(|name| root.join(name))
            .into();
    let mut files: Vec<PathBuf> = entries(root).into_iter().filter(|path| path.is_file()).collect();
    files.extend([root.join("fuzz/Cargo.toml"), root.join(".ci/run")]);
    while let Some(folder) = folders.pop() {
        let (inner, more): (Vec<_>, Vec<_>) = entries(&folder).into_iter().partition(|path| path.is_dir());
        folders.extend(inner);
        files.extend(more);
    }
    for path in files {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if ["rs", "comp", "glsl", "py", "toml", "md", "sh"].contains(&extension) || path.ends_with(".ci/run")
        {
            let text =
                fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name =
                path.strip_prefix(root).expect("the file lies below the root").to_str().expect("UTF-8");
            found.push(Source { path: name.replace('\\', "/"), text });
        }
    }
    assert!(found.len() > 100, "only {} files found in {}", found.len(), root.display());
    for name in ["fuzz/fuzz_targets/tokenizer.rs", "fuzz/Cargo.toml", "docs/RELIABILITY.md", "test.sh"] {
        assert!(found.iter().any(|source| source.path == name), "{name} was not found");
    }
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("the folder can be read").path()).collect()
}

/// The text with comments, strings and character literals left out.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        let raw_hashes =
            rest.strip_prefix('r').map(|after| after.len() - after.trim_start_matches('#').len());
        let is_raw = raw_hashes.is_some_and(|hashes| rest[1 + hashes..].starts_with('"'))
            && !code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if is_raw {
            let hashes = raw_hashes.unwrap_or_default();
            let close = format!("\"{}", "#".repeat(hashes));
            let body = hashes + 2;
            rest[body..].find(&close).map_or(rest.len(), |end| body + end + close.len())
        } else if character == '"' {
            1 + quoted(&rest[1..], '"')
        } else if is_character_literal(rest) {
            1 + quoted(&rest[1..], '\'')
        } else {
            0
        };
        if skipped == 0 {
            code.push(character);
            rest = &rest[character.len_utf8()..];
        } else {
            code.push(' ');
            rest = &rest[skipped..];
        }
    }
    code
}

/// Length of what is quoted, with the closing quote.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (index, character) in text.char_indices() {
        if character == quote && !escaped {
            return index + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    text.len()
}

/// Tells 'a' and '\n' from the lifetime in &'a.
fn is_character_literal(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next() == Some('\'') && (characters.next() == Some('\\') || characters.next() == Some('\''))
}

/// What follows each occurrence of `prefix` that starts a word.
fn after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).filter_map(move |(index, _)| {
        let before = code[..index].chars().next_back();
        let starts = !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':');
        starts.then(|| &code[index + prefix.len()..])
    })
}

fn identifier(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

fn has_word(code: &str, word: &str) -> bool {
    after(code, word).any(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// The modules named by a path or by a group of paths in braces.
fn named(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else { return vec![identifier(rest)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (index, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(identifier(group[start..index].trim_start()));
                start = index + 1;
                if character == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// The modules that a file of src/ imports, its own left out.
fn imported(source: &Source) -> Vec<String> {
    let code = code(&source.text);
    let up = if source.is_module_root() { "super::" } else { "super::super::" };
    let is_module = |name: &&str| IMPORTS.iter().any(|(module, _)| module == name);
    let by_super = after(&code, up).flat_map(named).filter(is_module);
    let mut names: Vec<String> =
        after(&code, "crate::").flat_map(named).chain(by_super).map(str::to_owned).collect();
    names.retain(|name| !name.is_empty() && Some(name.as_str()) != source.module());
    names.sort();
    names.dedup();
    names
}

/// What is wrong with one file.
fn complaints(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    for words in FORBIDDEN {
        let word = words.concat();
        wrong.extend(lines_with(source, |line| line.contains(&word)).map(|n| format!("line {n} has {word}")));
    }
    if source.is_rust() {
        wrong.extend(layout(source));
        wrong.extend(imports(source));
        let code = code(&source.text);
        if !source.path.starts_with("src/vulkan/") {
            if has_word(&code, "unsafe") {
                wrong.push("unsafe outside src/vulkan".to_owned());
            }
            let foreign =
                VULKAN_CRATES.iter().filter(|name| after(&code, name).any(|rest| rest.starts_with("::")));
            wrong.extend(foreign.map(|name| format!("{name} outside src/vulkan")));
        }
    }
    wrong
}

/// Numbers of the lines, from 1, for which something holds.
fn lines_with(source: &Source, holds: impl Fn(&str) -> bool) -> impl Iterator<Item = usize> {
    (1..).zip(source.text.lines()).filter_map(move |(number, line)| holds(line).then_some(number))
}

fn layout(source: &Source) -> Vec<String> {
    let mut wrong = Vec::new();
    let header = source.text.lines().map_while(|line| line.strip_prefix("//! "));
    if !header.collect::<String>().contains(['.', '?']) {
        wrong.push("does not open with a `//!` sentence that says what it is".to_owned());
    }
    let lines = source.text.lines().count();
    if lines > MAX_LINES {
        wrong.push(format!("has {lines} lines, more than {MAX_LINES}"));
    }
    let long = lines_with(source, |line| line.chars().count() > MAX_COLUMNS);
    wrong.extend(long.map(|number| format!("line {number} is longer than {MAX_COLUMNS} columns")));
    wrong
}

fn imports(source: &Source) -> Vec<String> {
    let Some(module) = source.module() else { return vec![] };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        return vec![format!("module {module} has no line in the table of imports")];
    };
    let foreign = imported(source).into_iter().filter(|name| !allowed.contains(&name.as_str()));
    foreign.map(|name| format!("module {module} may not import {name}")).collect()
}

/// Stems of exact shaders without a function of that name among the operations.
fn without_twin(sources: &[Source]) -> Vec<String> {
    let ops: Vec<String> =
        sources.iter().filter(|s| s.is_rust() && s.module() == Some("ops")).map(|s| code(&s.text)).collect();
    let exact = sources.iter().filter(|s| !s.text.lines().any(|line| line == "#pragma hlx fast"));
    let shaders = exact.filter_map(|s| s.path.strip_prefix("shaders/")?.strip_suffix(".comp"));
    let has_twin = |stem: &str| ops.iter().any(|code| code.contains(&format!("pub fn {stem}(")));
    shaders.filter(|stem| !has_twin(stem)).map(str::to_owned).collect()
}

#[test]
fn every_file_is_tidy() {
    let sources = sources();
    let wrong: Vec<String> = sources
        .iter()
        .flat_map(|source| complaints(source).into_iter().map(move |what| format!("{}: {what}", source.path)))
        .collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_shader_has_a_twin() {
    let sources = sources();
    assert!(sources.iter().any(|source| source.path == "shaders/gemm.comp"), "no shaders were found");
    assert_eq!(without_twin(&sources), Vec::<String>::new());
}

#[test]
fn the_table_of_imports_has_the_modules_that_there_are() {
    let mut modules: Vec<String> =
        sources().iter().filter_map(|source| source.module()).map(str::to_owned).collect();
    modules.sort();
    modules.dedup();
    let mut table: Vec<&str> = IMPORTS.iter().map(|(module, _)| *module).collect();
    table.sort_unstable();
    assert_eq!(modules, table);
}

/// The words that are forbidden are put together here, so that this file holds none of them.
#[test]
fn each_rule_is_seen_to_fail() {
    let caught = |path: &str, text: &str, part: &str| {
        let wrong = complaints(&Source::new(path, &format!("//! A file.\n{text}\n")));
        assert!(wrong.iter().any(|what| what.contains(part)), "{path}, {text:?}: {wrong:?} lacks {part:?}");
    };
    let passes = |path: &str, text: &str| {
        let wrong = complaints(&Source::new(path, &format!("//! A file.\n{text}\n")));
        assert_eq!(wrong, Vec::<String>::new(), "{path}: {text:?}");
    };
    caught("src/ops/gelu.rs", "use crate::model::Gpt;", "ops may not import model");
    caught("src/model/gpt.rs", "use crate::{ops::gelu, vulkan::Device};", "model may not import vulkan");
    caught("src/model/gpt.rs", "use crate::{ops::{a, b}, cpu};", "model may not import cpu");
    caught("src/model/gpt.rs", "fn f() { super::super::cpu::run() }", "model may not import cpu");
    caught("src/ops/mod.rs", "use super::cpu::run;", "ops may not import cpu");
    caught("src/vulkan/record.rs", "use crate::ops::Recorder;", "vulkan may not import ops");
    caught("src/cpu/twins.rs", "use crate::model::Gpt;", "cpu may not import model");
    caught("src/train/run.rs", "use crate::commands::run;", "train may not import commands");
    caught("src/extra.rs", "", "module extra has no line");
    passes("src/ops/gelu.rs", "use crate::exact::gelu; // crate::vulkan\nconst S: &str = \"crate::cpu\";");
    passes("src/vulkan/device.rs", "use ash::vk; unsafe { crate::kernels::run() }");

    caught("src/cpu/executor.rs", "fn f() { unsafe { g() } }", "unsafe outside");
    caught("tests/gemm.rs", "use ash::vk;", "ash outside");
    caught("src/commands/backend.rs", "gpu_allocator::MemoryLocation::GpuOnly", "gpu_allocator outside");
    passes(
        "build/emit.rs",
        "const WORD: &str = \"unsafe\"; const QUOTE: char = '\"'; // unsafe\n#![deny(unsafe_code)]",
    );
    passes("build/emit.rs", "const WORD: &str = r#\"a \" unsafe\"#; fn f<'a>(x: &'a str) {} /* unsafe */");

    caught("src/error.rs", &"\n".repeat(MAX_LINES - 1), "has 501 lines");
    caught("benches/step.rs", &"é".repeat(MAX_COLUMNS + 1), "line 2 is longer");
    passes("benches/step.rs", &"é".repeat(MAX_COLUMNS));
    for words in FORBIDDEN {
        caught("shaders/gemm.comp", &format!("// {}", words.concat()), "line 2 has ");
    }
    let headless = complaints(&Source::new("tests/data.rs", "use std::fs;\n//! Late.\n"));
    assert!(headless.iter().any(|what| what.contains("does not open")), "{headless:?}");

    let shader = Source::new("shaders/new_kernel.comp", "");
    let twin = Source::new("src/ops/new.rs", "//! New.\npub fn new_kernel(args: Args) {}\n");
    assert_eq!(without_twin(&[shader, twin]), Vec::<String>::new());
    let shader = Source::new("shaders/new_kernel.comp", "");
    let other = Source::new("src/ops/new.rs", "//! New.\n// pub fn new_kernel(\n");
    assert_eq!(without_twin(&[shader, other]), ["new_kernel"]);
}
