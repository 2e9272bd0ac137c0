#!/usr/bin/env python3
"""PyTorch's tokens per second on the training steps that benches/step.rs measures.

  pytorch_step.py [--device cpu|cuda] [--seconds S]

Needs torch. The same model (GPT-2: pre-LayerNorm, tanh GELU, biases, tied output), the same batch,
clipping and AdamW, f32 throughout, random tokens. Prints lines like benches/step.rs does.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 65
# layers, d_model, heads, context, batch
PRESETS = {"nano": (4, 128, 4, 64, 12), "tiny": (4, 256, 4, 128, 16)}


class Block(nn.Module):
    def __init__(self, d_model, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x):
        batch, context, d_model = x.shape
        split = lambda t: t.view(batch, context, self.heads, -1).transpose(1, 2)
        q, k, v = (split(t) for t in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(heads.transpose(1, 2).reshape(batch, context, d_model))
        return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, d_model, heads, context):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCABULARY, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.Sequential(*(Block(d_model, heads) for _ in range(layers)))
        self.ln_f = nn.LayerNorm(d_model)
        nn.init.normal_(self.wte.weight, std=0.02)

    def forward(self, tokens, targets):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.ln_f(self.blocks(self.wte(tokens) + self.wpe(positions)))
        return F.cross_entropy((x @ self.wte.weight.T).flatten(0, 1), targets.flatten())


def measure(preset, device, seconds):
    layers, d_model, heads, context, batch = PRESETS[preset]
    torch.manual_seed(1)
    model = Gpt(layers, d_model, heads, context).to(device)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() != 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, fused=True)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def step():
        tokens = torch.randint(VOCABULARY, (2, batch, context), device=device)
        loss = model(tokens[0], tokens[1])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    wait()
    times, start = [], time.perf_counter()
    while len(times) < 10 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        step()
        wait()
        times.append(time.perf_counter() - before)
    median = statistics.median(times)
    print(f"{preset}, batch {batch}: {median * 1e3:.2f} ms a step, {batch * context / median:.0f} tokens/s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    print(f"PyTorch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} threads")
    for preset in PRESETS:
        measure(preset, arguments.device, arguments.seconds)


main()
