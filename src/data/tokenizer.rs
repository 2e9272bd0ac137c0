//! The character tokenizer: one token a character, in a file that the `tokenizers` library opens.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::corpus::{Corpus, END_OF_TEXT};
use crate::error::{Error, Result, one_line};

/// Turns text into token ids and back. Ids follow the characters' code points, ascending from 0;
/// the end-of-text token, where there is one, comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenizer {
    /// By token id, ascending.
    characters: Vec<char>,
    has_end_of_text: bool,
}

impl Tokenizer {
    /// A tokenizer for every character that occurs in the corpora.
    pub fn build<'a>(corpora: impl IntoIterator<Item = &'a Corpus>) -> Tokenizer {
        let mut characters = BTreeSet::new();
        let mut has_end_of_text = false;
        for corpus in corpora {
            has_end_of_text |= corpus.has_examples;
            if corpus.has_examples {
                corpus.text.split(END_OF_TEXT).for_each(|example| characters.extend(example.chars()));
            } else {
                characters.extend(corpus.text.chars());
            }
        }
        Tokenizer { characters: characters.into_iter().collect(), has_end_of_text }
    }

    /// How many different tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.characters.len() + usize::from(self.has_end_of_text)
    }

    /// The id of the token between examples, if the vocabulary has one.
    pub fn end_of_text(&self) -> Option<u32> {
        self.has_end_of_text.then_some(self.characters.len() as u32)
    }

    /// The token ids of a corpus, which may hold examples only if there is a token to end them.
    pub fn encode_corpus(&self, corpus: &Corpus) -> Result<Vec<u32>> {
        if corpus.has_examples && self.end_of_text().is_none() {
            return Err(Error::Input(format!(
                "{} holds examples, and the model was trained on plain text, without a token that ends an \
                 example: give a .txt file",
                corpus.name
            )));
        }
        self.encode(&corpus.text, &corpus.name)
    }

    /// The token ids of a text. `what` names the text in the error about a character without a token.
    pub fn encode(&self, text: &str, what: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            if let Some(end_of_text) = self.end_of_text()
                && let Some(after) = rest.strip_prefix(END_OF_TEXT)
            {
                tokens.push(end_of_text);
                rest = after;
                continue;
            }
            match self.characters.binary_search(&character) {
                Ok(id) => tokens.push(id as u32),
                Err(_) => return Err(self.unknown(character, &text[..text.len() - rest.len()], what)),
            }
            rest = &rest[character.len_utf8()..];
        }
        Ok(tokens)
    }

    fn unknown(&self, character: char, before: &str, what: &str) -> Error {
        let position = before.chars().count() + 1;
        let line = before.matches('\n').count() + 1;
        Error::Input(format!(
            "{what}: {character:?} (U+{:04X}), character {position} of the text (line {line}), is not among \
             the {} characters that the model knows: leave it out, or train on a corpus that has it",
            character as u32,
            self.characters.len(),
        ))
    }

    /// The text of token ids; an id outside the vocabulary adds nothing.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut text = String::with_capacity(tokens.len());
        for &token in tokens {
            if let Some(&character) = self.characters.get(token as usize) {
                text.push(character);
            } else if Some(token) == self.end_of_text() {
                text.push_str(END_OF_TEXT);
            }
        }
        text
    }

    /// The content of `tokenizer.json`.
    ///
    /// A WordLevel model behind a split into single characters, because it needs no merges and no
    /// byte alphabet. The unknown token is deliberately not in the vocabulary: the `tokenizers`
    /// library then refuses a character without a token, as [`Tokenizer::encode`] does, instead of
    /// dropping it.
    pub fn to_json(&self) -> String {
        let added: Vec<Value> = self.end_of_text().map(added_token).into_iter().collect();
        let file = TokenizerFile {
            version: "1.0".into(),
            truncation: Value::Null,
            padding: Value::Null,
            added_tokens: added,
            normalizer: Value::Null,
            pre_tokenizer: split_characters(),
            post_processor: Value::Null,
            decoder: json!({"type": "Fuse"}),
            model: ModelPart {
                kind: "WordLevel".into(),
                vocab: self.vocabulary().collect(),
                unk_token: UNKNOWN.into(),
            },
        };
        let mut text = serde_json::to_string_pretty(&file).expect("strings and numbers are JSON");
        text.push('\n');
        text
    }

    fn vocabulary(&self) -> impl Iterator<Item = (String, u32)> + '_ {
        let end_of_text = self.end_of_text().map(|id| (END_OF_TEXT.to_owned(), id));
        (0..).zip(&self.characters).map(|(id, c)| (c.to_string(), id)).chain(end_of_text)
    }

    /// The tokenizer in a file's content; `path` is for messages.
    pub fn from_file(path: &Path, content: Vec<u8>) -> Result<Tokenizer> {
        let text = String::from_utf8(content).map_err(|error| error.to_string());
        text.and_then(|text| Tokenizer::from_json(&text)).map_err(|reason| {
            let (path, reason) = (path.display(), one_line(&reason));
            Error::Input(format!("{path} is not a character tokenizer written by hlx: {reason}"))
        })
    }

    /// Reads what [`Tokenizer::to_json`] wrote; the error says what is different.
    pub fn from_json(text: &str) -> std::result::Result<Tokenizer, String> {
        let kind =
            serde_json::from_str::<Value>(text).map_err(|error| format!("not valid JSON ({error})"))?;
        let kind = kind["model"]["type"].as_str().unwrap_or("missing").to_owned();
        if kind != "WordLevel" {
            return Err(format!("its model type is {kind}, and hlx reads WordLevel over single characters"));
        }
        let file: TokenizerFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if file.pre_tokenizer != split_characters() {
            return Err("its pre-tokenizer does not split into single characters".into());
        }
        if !file.normalizer.is_null() || !file.post_processor.is_null() {
            return Err("it has a normalizer or a post-processor".into());
        }
        let tokenizer = Tokenizer::from_vocabulary(file.model.vocab)?;
        let added: Vec<Value> = tokenizer.end_of_text().map(added_token).into_iter().collect();
        if file.added_tokens != added {
            return Err(format!("its added tokens are not just {END_OF_TEXT}"));
        }
        Ok(tokenizer)
    }

    fn from_vocabulary(vocab: Vocabulary) -> std::result::Result<Tokenizer, String> {
        let mut entries = vocab.0;
        entries.sort_by_key(|entry| entry.1);
        let has_end_of_text = entries.last().is_some_and(|(token, _)| token == END_OF_TEXT);
        let mut characters = Vec::with_capacity(entries.len());
        for (index, (token, id)) in entries.iter().enumerate() {
            if *id as usize != index {
                return Err(format!("its token ids do not run from 0 without gaps: {index} is missing"));
            }
            let mut chars = token.chars();
            match (chars.next(), chars.next()) {
                (Some(character), None) => characters.push(character),
                _ if has_end_of_text && index + 1 == entries.len() => {}
                _ => return Err(format!("token {token:?} is not one character")),
            }
        }
        if !characters.is_sorted_by(|a, b| a < b) {
            return Err("its characters are not in the order of their code points".into());
        }
        Ok(Tokenizer { characters, has_end_of_text })
    }
}

/// WordLevel asks for a name; it is in no vocabulary.
const UNKNOWN: &str = "<unk>";

fn split_characters() -> Value {
    json!({"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": false})
}

fn added_token(id: u32) -> Value {
    json!({"id": id, "content": END_OF_TEXT, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": true})
}

/// `tokenizer.json` as the `tokenizers` library lays it out.
#[derive(Serialize, Deserialize)]
struct TokenizerFile {
    version: String,
    truncation: Value,
    padding: Value,
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: ModelPart,
}

#[derive(Serialize, Deserialize)]
struct ModelPart {
    #[serde(rename = "type")]
    kind: String,
    vocab: Vocabulary,
    unk_token: String,
}

/// A JSON object from token to id that keeps the order of the ids.
struct Vocabulary(Vec<(String, u32)>);

impl FromIterator<(String, u32)> for Vocabulary {
    fn from_iter<I: IntoIterator<Item = (String, u32)>>(entries: I) -> Vocabulary {
        Vocabulary(entries.into_iter().collect())
    }
}

impl Serialize for Vocabulary {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(token, id)| (token, id)))
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, u32>::deserialize(deserializer)?;
        Ok(map.into_iter().collect())
    }
}
