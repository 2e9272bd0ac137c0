//! Corpus, tokenizer and windows: what they promise, and what they say when they cannot.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use hlx::data::{Corpus, EvaluationWindows, IGNORE, Tokenizer, TrainingWindows, sort_positions};
use tempfile::TempDir;

fn file(name: &str, content: impl AsRef<[u8]>) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    (folder, path)
}

fn text(text: &str) -> Corpus {
    Corpus { name: "text".into(), text: text.into(), has_examples: false }
}

#[test]
fn reads_text_as_it_is() {
    let (_folder, path) = file("a.txt", "Zwei\r\nTürme\n\n");
    assert_eq!(Corpus::read(&path).unwrap().text, "Zwei\r\nTürme\n\n");
    let (_folder, path) = file("a.poem", "\u{FEFF}Zwei");
    assert_eq!(Corpus::read(&path).unwrap().text, "Zwei", "a byte order mark is not text");
}

#[test]
fn reads_json_lines_as_examples() {
    let (_folder, path) = file("a.jsonl", "{\"text\": \"one\\n\", \"id\": 1}\r\n\n{\"text\":\"two\"}");
    let corpus = Corpus::read(&path).unwrap();
    assert!(corpus.has_examples);
    assert_eq!(corpus.text, "one\n<|endoftext|>two<|endoftext|>");
    let tokenizer = Tokenizer::build([&corpus]);
    assert_eq!(tokenizer.vocab_size(), 7, "newline, e, n, o, t, w and the end of text");
}

#[test]
fn a_bad_corpus_is_named_with_what_is_wrong() {
    let cases: [(&str, &[u8], &[&str]); 7] = [
        ("empty.txt", b"", &["empty.txt", "is empty"]),
        ("latin.txt", b"ab\nc\xE9d", &["latin.txt", "not UTF-8", "0xE9", "offset 4", "line 2"]),
        ("cut.txt", b"a\xC3", &["cut.txt", "offset 1", "line 1"]),
        ("a.jsonl", b"{\"text\":\"x\"}\n{\"text\": ", &["a.jsonl line 2", "not valid JSON"]),
        ("b.jsonl", b"\n{\"txt\":\"x\"}", &["b.jsonl line 2", "no \"text\""]),
        ("c.jsonl", b"{\"text\":3}", &["c.jsonl line 1", "not a string"]),
        ("d.jsonl", b"[1]", &["d.jsonl line 1", "not a JSON object"]),
    ];
    for (name, content, parts) in cases {
        let (_folder, path) = file(name, content);
        let error = Corpus::read(&path).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let message = error.to_string();
        for part in parts {
            assert!(message.contains(part), "{name}: {message:?} lacks {part:?}");
        }
        assert!(!message.contains('\n'), "one line: {message:?}");
    }
    let missing = Corpus::read("no/such.txt".as_ref()).unwrap_err().to_string();
    assert!(missing.contains("no/such.txt"), "{missing}");
}

#[test]
fn tokens_follow_code_points_and_come_back() {
    let original = "b a\n\tčñ😀 a<|endoftext|>";
    let tokenizer = Tokenizer::build([&text(original)]);
    assert_eq!(tokenizer.encode("\t\n", "x").unwrap(), [0, 1]);
    assert!(tokenizer.end_of_text().is_none(), "plain text has characters only");
    let tokens = tokenizer.encode(original, "x").unwrap();
    assert_eq!(tokens.len(), original.chars().count());
    assert_eq!(tokenizer.decode(&tokens), original);
    assert_eq!(*tokens.iter().max().unwrap() as usize, tokenizer.vocab_size() - 1);
}

#[test]
fn end_of_text_is_one_token_among_examples() {
    let corpus =
        Corpus { name: "x".into(), text: "ab<|endoftext|>a<|endoftext|>".into(), has_examples: true };
    let tokenizer = Tokenizer::build([&corpus]);
    let tokens = tokenizer.encode(&corpus.text, "x").unwrap();
    assert_eq!(tokens, [0, 1, 2, 0, 2]);
    assert_eq!(tokenizer.end_of_text(), Some(2));
    assert_eq!(tokenizer.decode(&tokens), corpus.text);
}

#[test]
fn a_character_never_seen_is_named() {
    let tokenizer = Tokenizer::build([&text("abc\n")]);
    let message = tokenizer.encode("ab\ncé", "--prompt").unwrap_err().to_string();
    for part in ["--prompt", "'é'", "U+00E9", "character 5", "line 2", "4 characters"] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn tokenizer_json_comes_back() {
    for has_examples in [false, true] {
        let corpus = Corpus { name: "x".into(), text: "q\"\\\n é😀".into(), has_examples };
        let tokenizer = Tokenizer::build([&corpus]);
        let json = tokenizer.to_json();
        assert_eq!(Tokenizer::from_json(&json).unwrap(), tokenizer);
        assert_eq!(Tokenizer::from_json(&json).unwrap().to_json(), json);
    }
}

#[test]
fn other_tokenizers_are_refused_with_the_reason() {
    let json = Tokenizer::build([&text("abc")]).to_json();
    let cases = [
        ("{", "not valid JSON"),
        (r#"{"model": {"type": "BPE"}}"#, "BPE"),
        (&json.replace("\"c\": 2", "\"c\": 3"), "without gaps"),
        (&json.replace("\"c\": 2", "\"cd\": 2"), "not one character"),
        (&json.replace("\"a\": 0", "\"x\": 0"), "order of their code points"),
        (&json.replace("Isolated", "Removed"), "single characters"),
    ];
    for (json, reason) in cases {
        let message = Tokenizer::from_json(json).unwrap_err();
        assert!(message.contains(reason), "{message:?} lacks {reason:?}");
    }
}

#[test]
fn an_epoch_covers_the_text_once_in_windows_that_do_not_overlap() {
    for (length, context) in [(3, 2), (64, 5), (65, 64), (129, 64), (1000, 7), (1001, 10)] {
        let mut windows = TrainingWindows::new(length, context, 1, "x").unwrap();
        let n = windows.per_epoch();
        assert_eq!(n, ((length - context) / context).max(1) as u64);
        for epoch in 0..5 {
            let mut starts: Vec<_> = (epoch * n..(epoch + 1) * n).map(|w| windows.start(w)).collect();
            starts.sort_unstable();
            assert!(starts.windows(2).all(|pair| pair[1] - pair[0] == context), "{starts:?}");
            assert!(starts[0] < context && starts[n as usize - 1] + context < length);
        }
    }
}

#[test]
fn order_and_phase_change_with_epoch_and_seed_and_reach_every_phase() {
    let epoch = |seed: u64, epoch: u64| {
        let mut windows = TrainingWindows::new(1000, 8, seed, "x").unwrap();
        let n = windows.per_epoch();
        (epoch * n..(epoch + 1) * n).map(|w| windows.start(w)).collect::<Vec<_>>()
    };
    assert_eq!(epoch(5, 0), epoch(5, 0));
    assert_ne!(epoch(5, 0), epoch(6, 0));
    assert_ne!(epoch(5, 0), epoch(5 + (1 << 32), 0), "both halves of the seed count");
    assert_ne!(epoch(5, 0), epoch(5, 1));
    let phases: HashSet<usize> = (0..100).map(|number| epoch(5, number).into_iter().min().unwrap()).collect();
    assert_eq!(phases.len(), 8);
}

#[test]
fn a_batch_depends_on_its_first_window_alone() {
    let tokens: Vec<u32> = (0..200).collect();
    let fill = |windows: &mut TrainingWindows, first: u64| {
        let (mut inputs, mut targets) = (vec![0; 5 * 6], vec![0; 5 * 6]);
        windows.fill(&tokens, first, &mut inputs, &mut targets);
        (inputs, targets)
    };
    let mut going_on = TrainingWindows::new(200, 6, 9, "x").unwrap();
    for step in 0..40 {
        let batch = fill(&mut going_on, step * 5);
        let mut fresh = TrainingWindows::new(200, 6, 9, "x").unwrap();
        assert_eq!(batch, fill(&mut fresh, step * 5), "step {step}");
        assert!(batch.0.iter().zip(&batch.1).all(|(input, target)| target - input == 1));
    }
    assert_ne!(going_on.per_epoch() % 5, 0, "some batch straddles an epoch's edge");
    assert_eq!(going_on.steps(2, 5), (2 * going_on.per_epoch()).div_ceil(5));
}

#[test]
fn a_text_too_short_for_the_context_is_refused() {
    assert!(TrainingWindows::new(65, 64, 1, "x").is_ok());
    let message = TrainingWindows::new(64, 64, 1, "a.txt").unwrap_err().to_string();
    for part in ["a.txt", "64 tokens", "--context 64", "65"] {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    assert!(EvaluationWindows::new(1, 64, "a.txt").is_err());
}

#[test]
fn evaluation_predicts_every_position_once() {
    for (length, context, batch) in [(2, 4, 3), (9, 4, 3), (10, 4, 1), (100, 8, 5), (101, 10, 4)] {
        let tokens: Vec<u32> = (1000..1000 + length as u32).collect();
        let windows = EvaluationWindows::new(length, context, "x").unwrap();
        let mut predicted = vec![];
        for first in (0..windows.count()).step_by(batch) {
            let (mut inputs, mut targets) = (vec![7; batch * context], vec![7; batch * context]);
            let counted = windows.fill(&tokens, first, &mut inputs, &mut targets);
            for (input, target) in inputs.iter().zip(&targets) {
                if *target != IGNORE {
                    assert_eq!(target - input, 1);
                    predicted.push(*target);
                }
            }
            assert_eq!(counted, targets.iter().filter(|&&t| t != IGNORE).count());
        }
        assert_eq!(predicted, tokens[1..]);
        assert_eq!(windows.positions(), length - 1);
    }
}

#[test]
fn positions_are_sorted_stably_by_token() {
    let tokens: Vec<u32> = (0..500u32).map(|i| i * i % 17).collect();
    let (mut order, mut starts) = (vec![9; 500], vec![9; 20 + 1]);
    sort_positions(&tokens, 20, &mut order, &mut starts);
    let mut expected: Vec<u32> = (0..500).collect();
    expected.sort_by_key(|&position| tokens[position as usize]);
    assert_eq!(order, expected);
    for token in 0..20 {
        let range = starts[token] as usize..starts[token + 1] as usize;
        let count = tokens.iter().filter(|&&t| t as usize == token).count();
        assert_eq!(range.len(), count);
        assert!(order[range].iter().all(|&position| tokens[position as usize] as usize == token));
    }
}
