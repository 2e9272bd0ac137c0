"""What PyTorch takes for a product, for fused attention and for a training step.

Each class is set up once and then measured any number of times, in turns with hlx: `measure()` gives
milliseconds, `close()` gives the memory back. Random normal data, f32 without TF32.
"""

import gc
import math
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Operands exist so often that together they are larger than a cache, as in hlx bench-gemm.
OPERANDS_BYTES = 192 << 20
CALLS_OF_A_GRAPH = 64


def f32_means_f32():
    """Turns TF32 off."""
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def captured(device, body):
    """A CUDA graph of `body`, run a few times before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            body()
    torch.cuda.current_stream().wait_stream(side)
    wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph


def median_ms(device, calls, seconds=0.25):
    """The median time of a call over batches of them, the calls taken in turns."""
    for call in calls[:4] + calls[:1]:
        call()
    wait(device)
    if device != "cuda":
        times, start = [], time.perf_counter()
        while len(times) < 5 or time.perf_counter() - start < seconds:
            before = time.perf_counter()
            calls[len(times) % len(calls)]()
            times.append((time.perf_counter() - before) * 1e3)
        return statistics.median(times)
    start = time.perf_counter()
    for call in calls[:3] * 2:
        call()
    wait(device)
    estimate = (time.perf_counter() - start) * 1e3 / len(calls[:3] * 2)
    batch = max(1, min(64, int(5 / estimate)))
    batches = max(5, min(50, int(seconds * 1e3 / (batch * estimate))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(batches + 1)]
    marks[0].record()
    for i in range(batches):
        for j in range(batch):
            calls[(i * batch + j) % len(calls)]()
        marks[i + 1].record()
    wait(device)
    return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:])) / batch


def free(device):
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


class Product:
    """C[m,n] = op(A) op(B), of one type; `graph` replays a CUDA graph of many."""

    def __init__(self, device, sizes, layout, kind, graph=False):
        (m, k, n), dtype = sizes, TYPES[kind]
        stored = (m * k + k * n) * dtype.itemsize
        draw = lambda rows, columns: torch.randn(rows, columns, device=device, dtype=dtype)
        self.device, self.layout, self.flops = device, layout, 2.0 * m * k * n
        self.operands = [
            (draw(k, m) if layout == "tn" else draw(m, k), draw(n, k) if layout == "nt" else draw(k, n))
            for _ in range(max(1, min(32, OPERANDS_BYTES // stored)))
        ]
        self.c = torch.empty(m, n, device=device, dtype=dtype)
        self.calls = [lambda a=a, b=b: torch.matmul(*self.turned(a, b), out=self.c) for a, b in self.operands]
        self.graph = captured(device, self.many) if graph else None

    def turned(self, a, b):
        return (a.t() if self.layout == "tn" else a), (b.t() if self.layout == "nt" else b)

    def many(self):
        for i in range(CALLS_OF_A_GRAPH):
            self.calls[i % len(self.calls)]()

    def measure(self):
        if self.graph:
            return median_ms(self.device, [self.graph.replay]) / CALLS_OF_A_GRAPH
        return median_ms(self.device, self.calls)

    def error(self):
        """The norm of the errors over that of the product, on 64 rows."""
        self.calls[0]()
        a, b = self.turned(*self.operands[0])
        rows = torch.linspace(0, a.shape[0] - 1, min(64, a.shape[0]), device=self.device).long()
        true = a[rows].double() @ b.double()
        return ((self.c[rows].double() - true).norm() / true.norm()).item()

    def close(self):
        del self.graph, self.calls, self.operands, self.c
        free(self.device)


class Attention:
    """Causal attention of B sequences, H heads, T positions, D channels: forward and backward."""

    def __init__(self, device, shape, kind):
        draw = lambda: torch.randn(*shape, device=device, dtype=TYPES[kind])
        self.device, self.d_output = device, draw()
        self.qkv = [draw().requires_grad_() for _ in range(3)]

    def step(self):
        for x in self.qkv:
            x.grad = None
        F.scaled_dot_product_attention(*self.qkv, is_causal=True).backward(self.d_output)

    def measure(self):
        return median_ms(self.device, [self.step])

    def close(self):
        del self.qkv, self.d_output
        free(self.device)


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
    """GPT-2 as hlx trains it: pre-LayerNorm, tanh GELU, biases, tied output."""

    def __init__(self, layers, d_model, heads, context, vocabulary):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(d_model)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                ends = name.endswith(("proj.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if ends else 0.02)

    def forward(self, tokens, targets):
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


class Training:
    """Steps of a model on random tokens: clipping at 1, fused AdamW.

    `how` is eager, graph (a CUDA graph of the whole step) or compile (torch.compile of the model).
    """

    def __init__(self, device, shape, batch, kind, how):
        layers, d_model, heads, context, vocabulary = shape
        torch.manual_seed(1)
        self.device, self.kind = device, kind
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.model = Gpt(*shape).to(device)
        groups = [
            {"params": [p for p in self.model.parameters() if p.dim() == 2], "weight_decay": 0.1},
            {"params": [p for p in self.model.parameters() if p.dim() != 2], "weight_decay": 0.0},
        ]
        rates = {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8}
        extra = {"capturable": True} if how == "graph" else {}
        self.optimizer = torch.optim.AdamW(groups, fused=True, **rates, **extra)
        self.forward = torch.compile(self.model, dynamic=False) if how == "compile" else self.model
        self.batches = torch.randint(vocabulary, (4, 2, batch, context), device=device)
        self.tokens, self.taken = self.batches[0].clone(), 0
        self.graph = captured(device, self.body) if how == "graph" else None
        for _ in range(5):
            self.step()
        wait(device)

    def body(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.kind == "bf16"):
            loss = self.forward(self.tokens[0], self.tokens[1])
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def step(self):
        self.tokens.copy_(self.batches[self.taken % 4])
        self.taken += 1
        self.graph.replay() if self.graph else self.body()

    def measure(self, seconds=1.0, fewest=10, most=200):
        """The median time from one step's beginning to the next one's."""
        if self.device != "cuda":
            return median_ms(self.device, [self.step], 4 * seconds)
        start, marks = time.perf_counter(), []
        while len(marks) <= fewest or (time.perf_counter() - start < seconds and len(marks) <= most):
            marks.append(torch.cuda.Event(enable_timing=True))
            marks[-1].record()
            self.step()
            # The host no further ahead than hlx's.
            marks[-3:][0].synchronize()
        wait(self.device)
        return statistics.median(a.elapsed_time(b) for a, b in zip(marks, marks[1:]))

    def peak_gib(self):
        return torch.cuda.max_memory_allocated() / 2**30 if self.device == "cuda" else None

    def close(self):
        del self.graph, self.forward, self.optimizer, self.model, self.batches, self.tokens
        torch._dynamo.reset()
        free(self.device)
