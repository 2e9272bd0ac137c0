#!/usr/bin/env python3
"""Trains a small GPT-2 with PyTorch in f64 and writes what tests/parity.rs follows.

  make_baseline.py [OUT]        default tests/baseline

OUT gets the initial model folder as transformers saves it, and baseline.json: the windows, and every
loss and gradient norm. The text is corpus/hlx.txt. Needs packages from PyPI: pip install torch transformers
"""

import json
import pathlib
import sys

import torch
import transformers
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

ROOT = pathlib.Path(__file__).resolve().parent.parent
# No longer: past some forty steps this small model amplifies roundings a hundredfold, in PyTorch too.
CONTEXT, BATCH, STEPS, WARMUP = 32, 8, 40, 20
OPTIMISER = {"lr": 1e-3, "betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.1, "grad_clip": 1.0}


def windows(generator, length, count):
    starts = torch.randint(length - CONTEXT - 1, (count, BATCH), generator=generator)
    return starts.tolist()


def batch(tokens, starts, shift):
    return torch.stack([tokens[start + shift : start + shift + CONTEXT] for start in starts])


def loss(model, tokens, starts):
    logits = model(batch(tokens, starts, 0)).logits
    return F.cross_entropy(logits.flatten(0, 1), batch(tokens, starts, 1).flatten()), logits


def train(model, tokens, steps):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [
        {"params": matrices, "weight_decay": OPTIMISER["weight_decay"]},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIMISER["lr"], betas=OPTIMISER["betas"], eps=OPTIMISER["eps"])
    losses, norms = [], []
    for step, starts in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = OPTIMISER["lr"] * min(1, (step + 1) / WARMUP)
        value, _ = loss(model, tokens, starts)
        optimizer.zero_grad()
        value.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMISER["grad_clip"]).item())
        optimizer.step()
        losses.append(value.item())
    return losses, norms


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "tests" / "baseline"
    text = (ROOT / "corpus" / "hlx.txt").read_text(encoding="utf-8")
    vocabulary = "".join(sorted(set(text)))
    tokens = torch.tensor([vocabulary.index(c) for c in text])
    cut = len(text) * 9 // 10
    torch.manual_seed(7)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.save_pretrained(out)
    model = model.double().train()
    generator = torch.Generator().manual_seed(7)
    steps = windows(generator, cut, STEPS)
    validation = windows(generator, len(text) - cut, 8)
    with torch.no_grad():
        first = loss(model, tokens[:cut], steps[0])[1][0, -1].tolist()
    losses, norms = train(model, tokens[:cut], steps)
    with torch.no_grad():
        val_loss = sum(loss(model, tokens[cut:], starts)[0].item() for starts in validation) / len(validation)
    baseline = {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "precision": "f64"},
        "corpus": {"file": "hlx.txt", "vocab": vocabulary},
        "model": {"context": CONTEXT, "batch": BATCH},
        "optimiser": {**OPTIMISER, "warmup_steps": WARMUP},
        "windows": steps,
        "val_windows": validation,
        "losses": losses,
        "grad_norms": norms,
        "val_loss": val_loss,
        "logits_first_window_last_position_before_training": first,
    }
    (out / "baseline.json").write_text(json.dumps(baseline) + "\n")
    (out / "generation_config.json").unlink(missing_ok=True)


main()
