//! Reads a corpus file: plain text, or JSON lines with one example each.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// Stands between examples, under the name GPT-2 gave it.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// The corpus that is built into the program, so that training works anywhere.
const BUNDLED: &str = include_str!("../../corpus/hlx.txt");

/// A text to train on or to measure with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corpus {
    /// How messages call it: its path, or what it is.
    pub name: String,
    /// The whole text. Where it is made of examples, [`END_OF_TEXT`] follows each of them.
    pub text: String,
    /// The text is made of examples, so [`END_OF_TEXT`] is a token in it.
    pub has_examples: bool,
}

impl Corpus {
    /// The corpus that came with the program.
    pub fn bundled() -> Corpus {
        Corpus { name: "the bundled corpus".into(), text: BUNDLED.to_owned(), has_examples: false }
    }

    /// Reads a file: `.jsonl` as examples, everything else as one stream of characters.
    pub fn read(path: &Path) -> Result<Corpus> {
        let name = path.display().to_string();
        let bytes = std::fs::read(path).map_err(|error| {
            Error::Input(format!("cannot read the corpus {name}: {error}: give the path of a text file"))
        })?;
        let has_examples = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("jsonl"));
        Corpus::from_bytes(name, bytes, has_examples)
    }

    /// The corpus in a file's content; `name` is for messages.
    pub fn from_bytes(name: String, bytes: Vec<u8>, has_examples: bool) -> Result<Corpus> {
        let text = decode(&name, bytes)?;
        let text = if has_examples { join_examples(&name, &text)? } else { text };
        if text.is_empty() {
            return Err(Error::Input(format!("{name} is empty: give a corpus with text in it")));
        }
        Ok(Corpus { name, text, has_examples })
    }
}

/// The text of a UTF-8 file, without the byte order mark that some editors put first.
fn decode(name: &str, bytes: Vec<u8>) -> Result<String> {
    let mut text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = 1 + bytes[..offset].iter().filter(|&&b| b == b'\n').count();
        Error::Input(format!(
            "{name} is not UTF-8 text: byte 0x{:02X} at offset {offset}, in line {line}: convert the file to \
             UTF-8",
            bytes[offset]
        ))
    })?;
    if text.starts_with('\u{FEFF}') {
        text.drain(..'\u{FEFF}'.len_utf8());
    }
    Ok(text)
}

/// Ends the message about a line that is no example.
const EXPECTED: &str = ": make every line an object like {\"text\": \"...\"}";

/// The `"text"` of every line, each followed by [`END_OF_TEXT`]. Blank lines are passed over.
fn join_examples(name: &str, lines: &str) -> Result<String> {
    let mut text = String::with_capacity(lines.len());
    for (index, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let example = example_text(line)
            .map_err(|reason| Error::Input(format!("{name} line {}: {reason}{EXPECTED}", index + 1)))?;
        text.push_str(&example);
        text.push_str(END_OF_TEXT);
    }
    Ok(text)
}

fn example_text(line: &str) -> std::result::Result<String, String> {
    match serde_json::from_str(line) {
        Err(error) => Err(format!("not valid JSON at column {}", error.column())),
        Ok(Value::Object(mut object)) => match object.remove("text") {
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err("\"text\" is not a string".into()),
            None => Err("the object has no \"text\"".into()),
        },
        Ok(_) => Err("not a JSON object".into()),
    }
}
