"""Draw docs/_static/chain.svg: the chain of the package, and one layer as two half-steps.

The three balls show real tokens: noisy draws from three directions, then their posterior mean under the mixture (the
denoising step that attention unrolls), then one sparse-coding step in the dictionary of the three directions. Run it
from the root of the repository:

    python docs/figures/chain.py
"""

import math
from pathlib import Path

import numpy as np

import srr

INK, SOFT, FAINT, CARD, WHITE = "#22303c", "#5d6b78", "#c9c4b8", "#faf8f3", "#ffffff"
COLORS = ("#1f6fa8", "#d1662a", "#2f8f5b")
RADIUS, LIFT = 92.0, 0.30
FONT = "font-family='Helvetica Neue, Helvetica, Arial, sans-serif'"
MONO = "font-family='SFMono-Regular, Menlo, Consolas, monospace'"
TURN = np.array([[-math.sin(0.62), math.cos(0.62), 0.0], [0.0, 0.0, 1.0]])  # viewed from between the axes


def text(x, y, body, *, size=15, color=INK, weight=400, anchor="middle", font=FONT, style=""):
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {font} font-size='{size}' fill='{color}' font-weight='{weight}' "
        f"text-anchor='{anchor}' {style}>{body}</text>"
    )


def arrow(x0, x1, y, color=INK):
    return (
        f"<path d='M{x0:.1f} {y:.1f} H{x1 - 7:.1f}' stroke='{color}' stroke-width='2' fill='none'/>"
        f"<path d='M{x1 - 9:.1f} {y - 5:.1f} L{x1:.1f} {y:.1f} L{x1 - 9:.1f} {y + 5:.1f} Z' fill='{color}'/>"
    )


def room(x, y, title, formula, code, color):
    return [
        f"<rect x='{x}' y='{y}' width='200' height='92' rx='10' fill='{WHITE}' stroke='{color}' stroke-width='1.6'/>",
        text(x + 100, y + 28, title, size=17, weight=600, color=color),
        text(x + 100, y + 53, formula, size=14),
        text(x + 100, y + 77, code, size=12.5, color=SOFT, font=MONO),
    ]


def on_screen(points):
    """Orthographic view of points in space, with the depth that says what is in front."""
    tilt = math.asin(LIFT)
    flat = points @ TURN.T
    toward = points @ np.array([math.cos(0.62), math.sin(0.62), 0.0])
    across, up = flat[:, 0], flat[:, 1] * math.cos(tilt) - toward * math.sin(tilt)
    return across, -up, toward * math.cos(tilt) + flat[:, 1] * math.sin(tilt)


def ball(cx, cy, tokens, labels, frame):
    """Unit ball with its axes, the three subspaces and the tokens."""
    parts = [
        f"<circle cx='{cx}' cy='{cy}' r='{RADIUS}' fill='{WHITE}' stroke='{FAINT}' stroke-width='1.4'/>",
        f"<ellipse cx='{cx}' cy='{cy}' rx='{RADIUS}' ry='{RADIUS * LIFT:.1f}' fill='none' stroke='{FAINT}' "
        "stroke-dasharray='3 4'/>",
    ]
    for axes, color, width, dash in ((np.eye(3), FAINT, 1.2, ""), (frame.T, None, 1.6, "5 4")):
        xs, ys, _ = on_screen(axes * 1.16)
        for x, y, own in zip(xs, ys, COLORS, strict=True):
            parts.append(
                f"<line x1='{cx}' y1='{cy}' x2='{cx + RADIUS * x:.1f}' y2='{cy + RADIUS * y:.1f}' "
                f"stroke='{color or own}' stroke-width='{width}' stroke-dasharray='{dash}' opacity='0.9'/>"
            )
    xs, ys, depths = on_screen(tokens)
    for index in np.argsort(depths):
        opacity = 0.42 + 0.45 * (depths[index] + 1) / 2
        parts.append(
            f"<circle cx='{cx + RADIUS * xs[index]:.1f}' cy='{cy + RADIUS * ys[index]:.1f}' r='3.6' "
            f"fill='{COLORS[labels[index]]}' opacity='{opacity:.2f}'/>"
        )
    return parts


def unit(Z):
    return Z / np.linalg.norm(Z, axis=-1, keepdims=True)


def layer():
    """Tokens before the layer, after the compress half-step and after the sparsify half-step."""
    rng = np.random.default_rng(5)
    turn = np.linalg.qr(np.array([[0.93, 0.10, 0.25], [-0.22, 0.92, 0.28], [-0.18, -0.32, 0.92]]))[0]
    D = turn * np.sign(np.diag(turn))
    U = D.T[:, :, None]  # three heads, each a line: (K, d, p) = (3, 3, 1)
    labels = np.repeat(np.arange(3), 34)
    Z = unit(D.T[labels] + 0.27 * rng.normal(size=(labels.size, 3)))
    weights = srr.ops.subspace_membership(Z, U, temperature=0.12)
    half = unit(0.15 * Z + srr.ops.lift(weights.T[:, :, None] * srr.ops.project(Z, U), U))
    codes = unit(srr.ops.relu_threshold(half @ D, threshold=0.1))
    return labels, D, (Z, half, codes)


def draw():
    labels, D, (before, between, after) = layer()
    parts = [f"<rect x='1' y='1' width='958' height='478' rx='16' fill='{CARD}' stroke='#e4dfd3'/>"]
    rooms = (
        ("Operators", "R, R\u1d9c and their gradients", "srr.ops", COLORS[0]),
        ("Problems, solvers", "max R \u2212 R\u1d9c \u2212 \u03bb\u2016Z\u2016\u2081", "srr.minimize", COLORS[0]),
        ("Unrolled networks", "a layer is one step", "srr.nn", COLORS[1]),
        ("Training", "the steps learn U and D", "srr.training", COLORS[2]),
    )
    for index, (title, formula, code, color) in enumerate(rooms):
        x = 30 + 233.3 * index
        parts += room(round(x), 28, title, formula, code, color)
        if index:
            parts.append(arrow(x - 31, x - 3, 74))
    parts.append(text(480, 164, "One layer is one alternating step of the solver", size=16, weight=600))
    y = 300
    balls = (
        (150, before, D, "Z<tspan dy='-6' font-size='11'>\u2113</tspan>", "tokens on the sphere"),
        (480, between, D, "Z<tspan dy='-6' font-size='11'>\u2113+\u00bd</tspan>", "gathered on their subspaces"),
        (810, after, np.eye(3), "Z<tspan dy='-6' font-size='11'>\u2113+1</tspan>", "on few coordinates"),
    )
    for cx, tokens, frame, name, caption in balls:
        parts += ball(cx, y, tokens, labels, frame)
        parts.append(text(cx, y + 124, name, size=17, weight=600, style="font-style='italic'"))
        parts.append(text(cx, y + 148, caption, size=14, color=SOFT))
    for x, verb, formula in (
        (315, "compress", "attention, srr.mssa"),
        (645, "sparsify", "ISTA, srr.ista_step"),
    ):
        parts.append(text(x, y - 16, verb, size=17, weight=600))
        parts.append(arrow(x - 56, x + 56, y))
        parts.append(text(x, y + 24, formula, size=14, color=SOFT))
    title = "<title>srr: operators, solvers, unrolled networks, training; one layer compresses, then sparsifies</title>"
    return (
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 960 480' width='960' height='480' role='img'>\n"
        + "\n".join([title, *parts])
        + "\n</svg>\n"
    )


if __name__ == "__main__":
    target = Path(__file__).parent.parent / "_static" / "chain.svg"
    target.write_text(draw(), encoding="utf-8")
    print(f"wrote {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")
