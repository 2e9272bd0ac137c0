#!/usr/bin/env python3
"""Draws the losses of hlx and PyTorch over each other, as docs/cuda-shakespeare.svg shows them.

  plot_parity.py CURVE BASELINE OUT.svg
      CURVE is what the parity test wrote to HLX_PARITY_CURVE, BASELINE its folder's baseline.json
"""

import json
import sys

WIDTH, HEIGHT = 760, 340
LEFT, BOTTOM, RIGHT, TOP = 56, 40, 16, 30
LOWEST, HIGHEST = 1.8, 4.4


def x(step, steps):
    return LEFT + (WIDTH - LEFT - RIGHT) * step / (steps - 1)


def y(loss):
    return TOP + (HEIGHT - TOP - BOTTOM) * (HIGHEST - loss) / (HIGHEST - LOWEST)


def curve(losses, colour, width, opacity=1):
    points = " ".join(f"{x(i, len(losses)):.1f},{y(loss):.1f}" for i, loss in enumerate(losses))
    return f'<polyline fill="none" stroke="{colour}" stroke-width="{width}" opacity="{opacity}" points="{points}"/>'


def text(at_x, at_y, words, anchor="start"):
    return f'<text x="{at_x:.1f}" y="{at_y:.1f}" text-anchor="{anchor}">{words}</text>'


def draw(hlx, pytorch):
    steps = len(pytorch)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#333">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
    ]
    for loss in (2.0, 2.5, 3.0, 3.5, 4.0):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#ddd"/>')
        parts.append(text(LEFT - 8, y(loss) + 4, f"{loss:.1f}", "end"))
    for step in (1, 50, 100, 150, 200):
        parts.append(text(x(step - 1, steps), HEIGHT - BOTTOM + 18, step, "middle"))
    parts += [
        curve(pytorch, "#e8a33d", 5, 0.7),
        curve(hlx, "#1f5fa8", 1.4),
        text(WIDTH / 2, HEIGHT - 6, "step", "middle"),
        text(LEFT, 18, "training loss, 6 layers, d_model 384, context 256, batch 64, tiny Shakespeare"),
        f'<rect x="{WIDTH - 270}" y="52" width="18" height="5" fill="#e8a33d" opacity="0.7"/>',
        text(WIDTH - 246, 59, "PyTorch f32, CUDA on an H200"),
        f'<rect x="{WIDTH - 270}" y="73" width="18" height="2" fill="#1f5fa8"/>',
        text(WIDTH - 246, 79, "hlx exact, any device"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def main():
    curve_file, baseline_file, out = sys.argv[1:]
    with open(curve_file) as file:
        hlx = json.load(file)["losses"]
    with open(baseline_file) as file:
        pytorch = json.load(file)["f32"]["losses"]
    with open(out, "w") as file:
        file.write(draw(hlx, pytorch))


main()
