#!/usr/bin/env python3
"""Shows that the Python ecosystem opens hlx's checkpoints, and hlx the ecosystem's.

  ecosystem.py all --hlx target/release/hlx --corpus FILE.txt
      trains a few steps on a text, and on examples cut from it, then does everything below in a temporary folder
  ecosystem.py check CHECKPOINT --corpus FILE [--logits FILE]
      opens a checkpoint in transformers and tokenizers; compares the logits that
      `hlx eval --dump-logits FILE` wrote with those of GPT2LMHeadModel
  ecosystem.py make DIR --like CHECKPOINT
      saves a fresh small GPT2LMHeadModel with the checkpoint's tokenizer, for hlx to open

Needs packages from PyPI: pip install torch transformers tokenizers safetensors
Run by hand or in CI. Exits with 0 if everything holds, else with 1 and the reason.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    from safetensors import safe_open
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel
except ImportError as error:
    sys.exit(f"{error}: this script needs packages from PyPI: pip install torch transformers tokenizers safetensors")

TOLERANCE = 1e-5
END_OF_TEXT = "<|endoftext|>"


def hold(condition, claim):
    """Ends the script unless the condition holds."""
    print(("ok    " if condition else "FAILS ") + claim, flush=True)
    if not condition:
        sys.exit(1)


def read(corpus):
    """The text of a file, line ends as they are; of JSON lines, every example with its end-of-text token."""
    text = corpus.read_bytes().decode("utf-8-sig")
    if corpus.suffix.lower() != ".jsonl":
        return text
    return "".join(json.loads(line)["text"] + END_OF_TEXT for line in text.split("\n") if line.strip())


def check_model(checkpoint):
    """Opens the model and returns it; nothing may be missing or left over."""
    model, info = GPT2LMHeadModel.from_pretrained(checkpoint, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        hold(not info[kind], f"transformers finds no {kind.replace('_', ' ')} in {checkpoint}: {sorted(info[kind])}")
    tied = model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()
    hold(tied, "the output layer is tied to the token embedding")
    return model.eval()


def check_moments(checkpoint, model):
    """The optimizer's file has both moments of every parameter, in the parameter's shape."""
    path = checkpoint / "optimizer.safetensors"
    expected = {f"{kind}.{name}": list(p.shape) for kind in "mv" for name, p in model.named_parameters()}
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_slice(name).get_shape() for name in file.keys()}
    hold(found == expected, f"{path.name} holds both moments of all {len(expected) // 2} parameters")


def check_tokenizer(checkpoint, model, corpus):
    """The tokenizer's ids cover the vocabulary, and a text comes back from them unchanged."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    hold(size == model.config.vocab_size, f"tokenizer and model agree on {size} tokens")
    text = read(corpus)
    end = tokenizer.token_to_id(END_OF_TEXT)
    units = len(text if end is None else text.replace(END_OF_TEXT, "."))
    tokens = tokenizer.encode(text).ids
    hold(len(tokens) == units, f"each of {units} characters is one token")
    hold(tokenizer.decode(tokens, skip_special_tokens=False) == text, "decoding gives the text back, spaces and newlines included")
    auto = AutoTokenizer.from_pretrained(checkpoint)
    hold(auto(text).input_ids == tokens and auto.decode(tokens) == text, "so does AutoTokenizer of transformers")
    seen = text if end is None else text.replace(END_OF_TEXT, "")
    ids = [tokenizer.token_to_id(c) for c in sorted(set(seen))]
    hold(ids == sorted(ids), "token ids follow the code points")
    try:
        tokenizer.encode("\U0010fffd")
        hold(False, "a character without a token is refused")
    except Exception as error:  # The library raises a plain Exception.
        hold(True, f"a character without a token is refused: {error}")
    hold(model.config.eos_token_id == end, f"the model's end-of-text token is the tokenizer's: {end}")


def check_logits(model, file):
    """hlx's logits of a window are the model's."""
    dump = json.loads(file.read_text())
    tokens, ours = torch.tensor([dump["tokens"]]), torch.tensor(dump["logits"], dtype=torch.float32)
    with torch.no_grad():
        theirs = model(tokens).logits[0]
    hold(ours.shape == theirs.shape, f"logits have the shape {list(theirs.shape)}")
    difference = (ours - theirs).abs().max().item()
    hold(difference <= TOLERANCE, f"logits differ by at most {difference:.2e} (allowed: {TOLERANCE:.0e})")


def check(args):
    model = check_model(args.checkpoint)
    if (args.checkpoint / "optimizer.safetensors").exists():
        check_moments(args.checkpoint, model)
    check_tokenizer(args.checkpoint, model, args.corpus)
    if args.logits:
        check_logits(model, args.logits)


def make(args):
    torch.manual_seed(7)
    vocab_size = Tokenizer.from_file(str(args.like / "tokenizer.json")).get_vocab_size()
    end = Tokenizer.from_file(str(args.like / "tokenizer.json")).token_to_id(END_OF_TEXT)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=48, n_embd=60, n_layer=3, n_head=3, bos_token_id=end, eos_token_id=end
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():  # Fresh biases and norms are 0 and 1, which would hide a mix-up.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(args.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(args.like / name, args.folder)
    print(f"saved {args.folder}")


def run_all(args):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def hlx(*arguments):
            print("hlx", *arguments, flush=True)
            subprocess.run([args.hlx, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)

        def check_folder(checkpoint, name, sample):
            logits = folder / f"{name}.json"
            hlx("eval", "--checkpoint", checkpoint, "--corpus", sample, "--dump-logits", logits, "--device", args.device)
            check(argparse.Namespace(checkpoint=checkpoint, corpus=sample, logits=logits))

        def train(corpus, run, *shape):
            """Trains a few steps on a corpus and returns the last checkpoint."""
            hlx("train", "--corpus", corpus, "--steps", 20, "--out", run, "--device", args.device, *shape)
            return run / (run / "latest").read_text().strip()

        # A part of the text is enough to evaluate on, and all of it is in the tokenizer's corpus.
        text = read(args.corpus)
        sample = folder / "sample.txt"
        sample.write_bytes(text[:20_000].encode("utf-8"))
        trained = train(args.corpus, folder / "run")
        check_folder(trained, "trained", sample)
        made = folder / "made"
        make(argparse.Namespace(folder=made, like=trained))
        check_folder(made, "made", sample)
        # The same text as examples, which an end-of-text token separates.
        examples = folder / "examples.jsonl"
        paragraphs = text[:20_000].split("\n\n")
        examples.write_text("".join(json.dumps({"text": p}) + "\n" for p in paragraphs), encoding="utf-8")
        shape = ("--n-layer", 1, "--d-model", 32, "--n-head", 2, "--context", 16)
        check_folder(train(examples, folder / "examples", *shape), "examples", examples)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("all")
    command.add_argument("--hlx", default="target/release/hlx")
    command.add_argument("--corpus", type=pathlib.Path, required=True)
    command.add_argument("--device", default="auto")
    command.set_defaults(run=run_all)
    command = commands.add_parser("check")
    command.add_argument("checkpoint", type=pathlib.Path)
    command.add_argument("--corpus", type=pathlib.Path, required=True)
    command.add_argument("--logits", type=pathlib.Path)
    command.set_defaults(run=check)
    command = commands.add_parser("make")
    command.add_argument("folder", type=pathlib.Path)
    command.add_argument("--like", type=pathlib.Path, required=True)
    command.set_defaults(run=make)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
