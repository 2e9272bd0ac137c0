#!/usr/bin/env python3
"""hlx beside PyTorch on one machine: the same products, attention and training steps, in turns.

  compare_pytorch.py --hlx FILE [--device cpu|cuda] [--budget SECONDS] [--rounds N] [ROW ...]

A row is one thing in PyTorch and in one or several precisions of hlx; each round measures all of them, and
the medians of the rounds are compared. A ratio above 1 says that hlx is faster. Rows are printed when they
are known, the most important first; those that the budget leaves no time for are named at the end. ROW picks
rows by pattern: 'train/*', 'gemm/4096*'. --list shows them. Needs torch and hlx, and nothing else.
"""

import argparse
import fnmatch
import json
import signal
import statistics
import subprocess
import sys
import time

# layers, d_model, heads, context
PRESETS = {
    "nano": (4, 128, 4, 64),
    "tiny": (4, 256, 4, 128),
    "small": (6, 512, 8, 256),
    "medium": (12, 768, 12, 512),
    "gpt2": (12, 768, 12, 1024),
}
# batch, vocabulary
CUDA_STEPS = {
    "gpt2": (16, 50304), "nano": (64, 65), "tiny": (64, 65), "small": (64, 65), "medium": (32, 65),
}
CPU_STEPS = {"nano": (12, 65), "tiny": (16, 65)}

# What PyTorch does, and which precisions of hlx stand beside it.
MODES = {
    "bf16": ["mixed"],
    "f32": ["f32", "exact"],
    "bf16-graph": ["mixed"],
    "f32-graph": ["f32"],
    "bf16-compile": ["mixed"],
}

CUDA_PRODUCTS = [
    ("4096x4096x4096", "nn"), ("16384x768x3072", "nn"), ("512x256x512", "nn"), ("8192x8192x8192", "nn"),
    ("4096x4096x4096", "nt"), ("4096x4096x4096", "tn"), ("16384x768x3072", "nt"), ("768x16384x3072", "tn"),
    ("2048x2048x2048", "nn"), ("1024x1024x1024", "nn"), ("16384x3072x768", "nn"),
]
CPU_PRODUCTS = [("512x256x512", "nn"), ("1024x1024x1024", "nn"), ("2048x768x3072", "nt")]


def rows_of(device):
    """Names, the most important first: kind/what/..., PyTorch's mode last."""
    if device == "cpu":
        steps = [f"train/{model}/f32" for model in CPU_STEPS]
        return steps + [f"gemm/{size}/{layout}/f32" for size, layout in CPU_PRODUCTS] + ["attention/f32"]
    products = [f"gemm/{size}/{layout}/{kind}" for size, layout in CUDA_PRODUCTS for kind in ("f32", "bf16")]
    small = products.index("gemm/512x256x512/nn/bf16")
    products.insert(small, "gemm/512x256x512/nn/f32-graph")
    steps = [f"train/{model}/{mode}" for model in CUDA_STEPS for mode in MODES if "compile" not in mode]
    steps = [row for row in steps if row != "train/gpt2/f32-graph"]
    compiled = [f"train/{model}/bf16-compile" for model in ("gpt2", "small", "tiny", "nano", "medium")]
    return products[:2] + steps[:2] + ["attention/bf16"] + products[2:7] + steps[2:] + products[7:] + [
        "attention/f32"] + compiled


class NotOffered(Exception):
    """hlx has not got this precision on this device."""


class Late(BaseException):
    """The budget is used up. Not an Exception, which torch.compile would catch and report as its own failure."""


class Hlx:
    """The hlx side: one process a measurement."""

    def __init__(self, arguments):
        self.file, self.device = arguments.hlx, arguments.hlx_device

    def run(self, *words):
        command = [self.file, *words, "--device", self.device, "--json"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 4:
            raise NotOffered(done.stderr.strip().splitlines()[-1])
        if done.returncode != 0:
            raise RuntimeError(f"hlx {' '.join(words)}: {done.stderr.strip()[-400:]}")
        return json.loads(done.stdout)

    def product(self, size, layout, precision):
        words = ["bench-gemm", *size.split("x"), "--layout", layout, "--precision", precision]
        row = self.run(*words)[0]
        packing = row["packing_ms"]
        note = f", packing apart {packing * 1e3:.1f} us" if packing is not None else ""
        return row["ms"], f"error {row['frobenius_error']:.1e}{note}"

    def training(self, model, batch, vocabulary, precision):
        row = self.steps(model, batch, vocabulary, precision)
        busy = f", busy {row['busy_share']:.1%}" if row["busy_share"] is not None else ""
        return row["step_ms"], f"{row['memory_bytes'] / 2**30:.2f} GiB{busy}"

    def attention(self, model, batch, precision):
        """Milliseconds of one layer's attention, from the kernels of a step."""
        row = self.steps(model, batch, 65, precision, "--kernels", "--steps", "3")
        of_attention = lambda k: k["kernel"].startswith(("attention", "softmax")) or "causal" in k["shape"]
        kernels = [kernel for kernel in row["kernels"] if of_attention(kernel)]
        names = sorted({kernel["kernel"] for kernel in kernels})
        return sum(k["total_us"] for k in kernels) / 1e3 / PRESETS[model][0], ", ".join(names)

    def steps(self, model, batch, vocabulary, precision, *more):
        words = ["--model", model, "--batch-size", str(batch), "--vocab-size", str(vocabulary)]
        return self.run("bench", *words, "--precision", precision, "--no-peaks", *more)["steps"][0]


def torch_of(device, row):
    """PyTorch's side of a row, the function of hlx's, and how to write a time down."""
    import torch_side

    kind, *what, mode = row.split("/")
    dtype, _, how = mode.partition("-")
    if kind == "gemm":
        size, layout = what
        sizes = [int(part) for part in size.split("x")]
        side = torch_side.Product(device, sizes, layout, dtype, how == "graph")
        flops, note = side.flops, f"error {side.error():.1e}"
        rate = lambda ms: f"{flops / ms * 1e-6:10.1f} GFLOP/s"
        return side, (lambda hlx, precision: hlx.product(size, layout, precision)), rate, lambda: note
    if kind == "attention":
        model, batch = ("gpt2", 16) if device == "cuda" else ("tiny", 16)
        _, d_model, heads, context = PRESETS[model]
        shape = (batch, heads, context, d_model // heads)
        side = torch_side.Attention(device, shape, dtype)
        note = "B{} H{} T{} D{}, forward and backward".format(*shape)
        rate = lambda ms: f"{ms * 1e3:10.1f} us     "
        return side, (lambda hlx, precision: hlx.attention(model, batch, precision)), rate, lambda: note
    (model,) = what
    batch, vocabulary = (CUDA_STEPS if device == "cuda" else CPU_STEPS)[model]
    side = torch_side.Training(device, (*PRESETS[model], vocabulary), batch, dtype, how or "eager")
    tokens = batch * PRESETS[model][3]
    rate = lambda ms: f"{tokens / ms * 1e3:10.0f} tokens/s"

    def note():
        peak = side.peak_gib()
        return f"{peak:.2f} GiB" if peak is not None else ""

    return side, (lambda hlx, precision: hlx.training(model, batch, vocabulary, precision)), rate, note


def compare(arguments, row, hlx):
    """Measures a row and prints it, PyTorch first. Returns what was measured."""
    precisions = [p for p in MODES[row.rsplit("/", 1)[1]] if p in arguments.precision]
    # On a processor, hlx calculates f32 as it does exact.
    precisions = ["exact"] if arguments.device == "cpu" else precisions
    if row.startswith("gemm") and row.endswith("bf16"):
        precisions = [p for p in ["mixed"] if p in arguments.precision]
    side, measure, rate, note = torch_of(arguments.device, row)
    try:
        torch_ms, hlx_ms, notes = [], {p: [] for p in precisions}, {}
        for _ in range(arguments.rounds):
            torch_ms.append(side.measure())
            for precision in list(hlx_ms):
                try:
                    ms, notes[precision] = measure(hlx, precision)
                    hlx_ms[precision].append(ms)
                except NotOffered as reason:
                    notes[precision] = str(reason)
                    del hlx_ms[precision]
        ours = statistics.median(torch_ms)
        result = {"row": row, "torch_ms": ours, "torch_rounds_ms": torch_ms, "torch_note": note(), "hlx": {}}
        print(f"{row:32} PyTorch      {rate(ours)}            {result['torch_note']}", flush=True)
    finally:
        side.close()
    for precision in precisions:
        times = hlx_ms.get(precision)
        if not times:
            print(f"{'':32} hlx {precision:8} {notes[precision]}", flush=True)
            continue
        ms = statistics.median(times)
        print(f"{'':32} hlx {precision:8} {rate(ms)}  {ours / ms:6.2f} x  {notes[precision]}", flush=True)
        result["hlx"][precision] = {
            "ms": ms, "rounds_ms": times, "ratio": ours / ms, "note": notes[precision],
        }
    return result


def describe(arguments):
    """A line each for PyTorch's device and for hlx's."""
    import torch

    torch_device = f"{torch.get_num_threads()} threads"
    if arguments.device == "cuda":
        torch_device = f"CUDA {torch.version.cuda}, {torch.cuda.get_device_name()}"
    print(f"PyTorch {torch.__version__}, {torch_device}")
    words = ["bench-gemm", "8", "8", "8", "--precision", "exact", "--device", arguments.hlx_device]
    done = subprocess.run([arguments.hlx, *words], capture_output=True, text=True)
    print(f"hlx {done.stderr.strip()}, {time.strftime('%Y-%m-%d')}")
    print(f"medians of {arguments.rounds} rounds; a ratio above 1: hlx is faster", flush=True)
    return {"torch": torch.__version__, "torch_device": torch_device, "hlx": done.stderr.strip()}


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", default=["*"])
    parser.add_argument("--hlx", required=True, help="the program")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="PyTorch's")
    parser.add_argument("--hlx-device", help="hlx's, as its --device takes it [default: cpu or auto]")
    parser.add_argument("--precision", action="append", choices=["exact", "f32", "mixed"],
                        help="of hlx; may be given several times [default: all]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=1e9, metavar="SECONDS")
    parser.add_argument("--out", metavar="FILE", help="a JSON line for each row as well")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    arguments = parser.parse_args()
    arguments.precision = arguments.precision or ["exact", "f32", "mixed"]
    arguments.hlx_device = arguments.hlx_device or ("cpu" if arguments.device == "cpu" else "auto")
    return arguments


def main():
    arguments, start = parse(), time.monotonic()
    chosen = [
        row for row in rows_of(arguments.device) if any(fnmatch.fnmatch(row, p) for p in arguments.rows)
    ]
    if not chosen:
        sys.exit("no row has such a name: --list shows them")
    if arguments.list:
        print("\n".join(chosen))
        return
    out = open(arguments.out, "a") if arguments.out else None
    keep = lambda value: out and print(json.dumps(value), file=out, flush=True)
    keep(describe(arguments))
    import torch_side

    torch_side.f32_means_f32()

    def late(*_):
        raise Late

    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, late)
    left_out, hlx = [], Hlx(arguments)
    for row in chosen:
        left = arguments.budget - (time.monotonic() - start)
        if left < 5:
            left_out.append(row)
            continue
        if hasattr(signal, "SIGALRM") and left < 1e6:
            signal.alarm(int(left))
        try:
            keep(compare(arguments, row, hlx))
        except Late:
            left_out.append(row)
        except Exception as error:  # one row must not take the others with it
            print(f"{row:32} failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
            torch_side.free(arguments.device)
        finally:
            if hasattr(signal, "SIGALRM"):
                signal.alarm(0)
    if left_out:
        print("left out, for want of time: " + ", ".join(left_out))
    print(f"{time.monotonic() - start:.0f} s")


main()
