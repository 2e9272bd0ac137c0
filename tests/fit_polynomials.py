"""Fits the polynomials of src/exact/math.rs and prints their coefficients as f32 bit patterns.

Run by hand: pip install mpmath; python3 tests/fit_polynomials.py
Each fit is Remez's exchange: the polynomial whose largest weighted error is least. Its coefficients are then
rounded to f32, and what the rounding costs is in the printed error.
"""

import struct

from mpmath import cos, exp, log1p, lu_solve, matrix, mp, mpf, pi, sqrt, tanh

mp.prec = 400  # the targets cancel near 0
NEAR_ZERO = mpf(10) ** -20
GRID = 1500


def to_f32(x):
    return struct.unpack("<f", struct.pack("<f", float(x)))[0]


def bits(x):
    return struct.unpack("<I", struct.pack("<f", float(x)))[0]


def evaluate(coefficients, x):
    return sum(c * x**i for i, c in enumerate(coefficients))


def remez(target, weight, low, high, degree):
    """The coefficients c that make max |weight(x) (target(x) - sum c[i] x^i)| least."""
    count = degree + 2
    grid = [low + (high - low) * i / GRID for i in range(GRID + 1)]
    targets, weights = [target(x) for x in grid], [weight(x) for x in grid]
    points = [(low + high) / 2 - (high - low) / 2 * cos(pi * (2 * i + 1) / (2 * count)) for i in range(count)]
    points = [x if abs(x) > 0.03 else mpf("0.03") for x in points]  # the weights vanish at 0
    for _ in range(12):
        a, b = matrix(count, count), matrix(count, 1)
        for row, x in enumerate(points):
            for i in range(degree + 1):
                a[row, i] = x**i
            a[row, degree + 1] = (-1) ** row / weight(x)
            b[row] = target(x)
        solution = lu_solve(a, b)
        coefficients, level = list(solution[: degree + 1]), abs(solution[degree + 1])
        errors = [w * (t - evaluate(coefficients, x)) for w, t, x in zip(weights, targets, grid)]
        extrema = [0]
        for i in range(1, GRID + 1):
            if errors[i] * errors[extrema[-1]] < 0:
                extrema.append(i)
            elif abs(errors[i]) > abs(errors[extrema[-1]]):
                extrema[-1] = i
        while len(extrema) > count:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        if max(map(abs, errors)) < 1.001 * level or len(extrema) < count:
            break
        points = [grid[i] for i in extrema]
    return coefficients


def fit(name, target, weight, low, high, degree):
    away = lambda f: lambda x: f(x if x != 0 else NEAR_ZERO)
    target, weight = away(target), away(weight)
    coefficients = [to_f32(c) for c in remez(target, weight, mpf(low), mpf(high), degree)]
    xs = [low + (high - low) * mpf(i) / GRID for i in range(GRID + 1)]
    error = max(abs(weight(x) * (target(x) - evaluate(coefficients, x))) for x in xs)
    print(f"{name}: largest relative error {float(error):.2g}")
    for i, c in enumerate(coefficients):
        print(f"  {name.upper()}_{i} 0x{bits(c):08x}  {c:.9g}")


fit("exp", lambda r: (exp(r) - 1 - r) / r**2, lambda r: r**2 / exp(r), -mpf("0.34659"), mpf("0.34659"), 4)
fit("log", lambda f: (log1p(f) - f + f**2 / 2) / f**3, lambda f: f**3 / log1p(f),
    sqrt(mpf("0.5")) - 1, sqrt(mpf(2)) - 1, 7)
fit("tanh", lambda z: (tanh(sqrt(z)) / sqrt(z) - 1) / z, lambda z: z * sqrt(z) / tanh(sqrt(z)),
    mpf(0), mpf("0.625") ** 2, 4)
