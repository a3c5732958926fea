"""ToST and CBT written out plainly from their formulas, on dictionaries of released names.

Loops over heads, windows and time; nothing here is imported from the package.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


def affine(name: str, rows: int, columns: int | None = None) -> Shapes:
    """A norm of some width, or a linear map of some rows and columns."""
    return {f"{name}.weight": (rows,) if columns is None else (rows, columns), f"{name}.bias": (rows,)}


def stem_shapes(prefix: str, dim: int, patch: int) -> Shapes:
    widths = {8: (3, dim // 4, dim // 2, dim), 16: (3, dim // 8, dim // 4, dim // 2, dim)}[patch]
    shapes: Shapes = {}
    for i in range(len(widths) - 1):
        base = f"{prefix}.{2 * i}"
        shapes[base + ".0.weight"] = (widths[i + 1], widths[i], 3, 3)
        shapes |= affine(base + ".1", widths[i + 1])
        shapes |= {f"{base}.1.running_{what}": (widths[i + 1],) for what in ("mean", "var")}
        shapes[base + ".1.num_batches_tracked"] = ()
    return shapes


def tost_shapes(dim: int, heads: int, depth: int, patch: int, classes: int, *, bias: bool = True) -> Shapes:
    shapes = {"cls_token": (1, 1, dim), **stem_shapes("patch_embed.proj", dim, patch)}
    shapes |= {"pos_embeder.token_projection.weight": (dim, 64, 1, 1), "pos_embeder.token_projection.bias": (dim,)}
    for base in [f"blocks.{i}." for i in range(depth)] + [f"cls_attn_blocks.{i}." for i in range(2)]:
        late = base.startswith("cls")
        shapes |= affine(base + "norm1", dim) | affine(base + "norm2", dim)
        shapes |= affine(base + "mlp.fc1", 4 * dim, dim) | affine(base + "mlp.fc2", dim, 4 * dim)
        shapes |= {base + "gamma1": (dim,), base + "gamma2": (dim,)}
        shapes |= affine(base + "attn.qkv", 3 * dim if late else dim, dim)
        shapes |= affine(base + ("attn.proj" if late else "attn.to_out.0"), dim, dim)
        if not late:
            shapes[base + "attn.temp"] = (heads, 1)
        if not bias:
            del shapes[base + "attn.qkv.bias"]
    return shapes | affine("norm", dim) | affine("head", classes, dim)


def language_shapes(dim: int, heads: int, depth: int, block: int, vocabulary: int, *, bias: bool = False) -> Shapes:
    shapes: Shapes = {"transformer.wte.weight": (vocabulary, dim), "transformer.wpe.weight": (block, dim)}
    for base in [f"transformer.h.{i}." for i in range(depth)]:
        for name, sizes in {
            "ln_1": (dim,),
            "ln_2": (dim,),
            "attn.c_proj": (dim, dim),
            "mlp.c_fc": (4 * dim, dim),
            "mlp.c_proj": (dim, 4 * dim),
        }.items():
            shapes |= affine(base + name, *sizes)
        shapes |= {base + "attn.c_attn.weight": (dim, dim), base + "attn.temp": (heads, 1)}
        shapes |= {base + "attn.denom_bias": (heads, block, 1), base + "gamma1": (dim,), base + "gamma2": (dim,)}
    shapes |= affine("transformer.ln_f", dim) | {"lm_head.weight": (vocabulary, dim)}
    return {name: shape for name, shape in shapes.items() if bias or not name.endswith(".bias")}


def cbt_shapes(dim: int, heads: int, depth: int, patch: int, patches: int, classes: int) -> Shapes:
    shapes = {"pos_embedding": (1, patches + 1, dim), "cls_token": (1, 1, dim)}
    shapes |= stem_shapes("to_patch_embedding.proj", dim, patch)
    for base in [f"transformer.layers.{i}." for i in range(depth)]:
        shapes |= affine(base + "0.norm", dim) | affine(base + "1.norm", dim)
        shapes |= {base + "0.fn.proj.weight": (dim, dim), **affine(base + "0.fn.to_out", dim, dim)}
        shapes |= {base + "0.fn.step_x": (heads, 1, 1), base + "0.fn.step_rep": (heads, 1, 1)}
        shapes[base + "1.fn.weight"] = (dim, dim)
    return shapes | affine("mlp_head.0", dim) | affine("mlp_head.1", classes, dim)


def random_weights(shapes: Shapes, seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            weights[name] = 0.5 + drawn.square()
        else:
            weights[name] = drawn * (0.3 if len(shape) > 1 else 1.0)
    if "lm_head.weight" in weights:
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
    return weights


def norm(w: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt() * w[name + ".weight"]
    return scaled + w[name + ".bias"] if name + ".bias" in w else scaled


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def stem(w: Weights, prefix: str, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    x, i = images, 0
    while f"{prefix}.{i}.0.weight" in w:
        base = f"{prefix}.{i}.1."
        x = F.conv2d(gelu(x) if i else x, w[f"{prefix}.{i}.0.weight"], stride=2, padding=1)
        mean, var, scale, shift = (
            w[base + n][:, None, None] for n in ("running_mean", "running_var", "weight", "bias")
        )
        x = (x - mean) / (var + 1e-5).sqrt() * scale + shift
        i += 2
    return x.flatten(2).transpose(1, 2), (x.shape[2], x.shape[3])


def fourier(grid: tuple[int, int]) -> torch.Tensor:
    """Number by number: 32 of the row, then 32 of the column; sine and cosine of a frequency side by side."""
    rows = []
    for i in range(1, grid[0] + 1):
        for j in range(1, grid[1] + 1):
            numbers = []
            for place, side in ((i, grid[0]), (j, grid[1])):
                for k in range(32):
                    angle = 2 * math.pi * place / (side + 1e-6) / 10000 ** (2 * (k // 2) / 32)
                    numbers.append(math.cos(angle) if k % 2 else math.sin(angle))
            rows.append(numbers)
    return torch.tensor(rows, dtype=torch.float64)


def statistics(v: torch.Tensor, temp: torch.Tensor) -> torch.Tensor:
    """Coordinates (B, n, heads, p) after token statistics attention over all tokens."""
    unit = v / v.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)
    pi = torch.softmax(unit.square().sum(-1) * temp[:, 0], dim=-1)[..., None]  # (B, n, heads, 1), over heads
    dots = (pi / (pi.sum(1, keepdim=True) + 1e-8) * v.square()).sum(1, keepdim=True)
    return -pi * v / (1 + dots)


def causal_statistics(v: torch.Tensor, temp: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """The same, token after token, each with sums over those before it and itself; offset (heads, block, 1)."""
    out, memberships = [], []
    for t in range(v.shape[1]):
        past = v[:, : t + 1].square()
        share = past[:, -1] / past.sum(1).clamp_min(1e-12) + offset[:, t]  # (B, heads, p)
        memberships.append(torch.softmax(share.sum(-1) * temp[:, 0], dim=-1)[..., None])
        pi = torch.stack(memberships, dim=1)  # (B, t + 1, heads, 1)
        dots = (pi * past).sum(1) / (pi.sum(1) + 1e-8)
        out.append(-memberships[-1] * v[:, t] / (1 + dots))
    return torch.stack(out, dim=1)


def class_attention(w: Weights, base: str, x: torch.Tensor, heads: int) -> torch.Tensor:
    """The class token reads every token, head by head; everything else as released, doubled patches included."""
    d = x.shape[-1]
    p = d // heads
    y = norm(w, base + "norm1", x, 1e-6)
    q, k, v = linear(w, base + "attn.qkv", y).split(d, dim=-1)
    read = []
    for h in range(heads):
        part = slice(h * p, (h + 1) * p)
        scores = (q[:, :1, part] * k[..., part]).sum(-1) / math.sqrt(p)  # (B, 1 + n)
        read.append((torch.softmax(scores, dim=-1)[..., None] * v[..., part]).sum(1))
    token = linear(w, base + "attn.proj", torch.cat(read, dim=-1))[:, None]
    x = x + w[base + "gamma1"] * torch.cat([token, y[:, 1:]], dim=1)
    return x


def class_layer(w: Weights, base: str, x: torch.Tensor, heads: int, *, all_normed: bool) -> torch.Tensor:
    x = class_attention(w, base, x, heads)
    normed = norm(w, base + "norm2", x, 1e-6)
    x = normed if all_normed else torch.cat([normed[:, :1], x[:, 1:]], dim=1)
    token = w[base + "gamma2"] * linear(w, base + "mlp.fc2", gelu(linear(w, base + "mlp.fc1", x[:, :1])))
    return torch.cat([x[:, :1] + token, 2 * x[:, 1:]], dim=1)


def tost(w: Weights, images: torch.Tensor, heads: int, *, all_normed: bool = True) -> torch.Tensor:
    x, grid = stem(w, "patch_embed.proj", images)
    kernel = w["pos_embeder.token_projection.weight"][:, :, 0, 0]
    x = x + fourier(grid) @ kernel.T + w["pos_embeder.token_projection.bias"]
    i = 0
    while f"blocks.{i}.gamma1" in w:
        base = f"blocks.{i}."
        v = linear(w, base + "attn.qkv", norm(w, base + "norm1", x, 1e-6)).unflatten(-1, (heads, -1))
        x = x + w[base + "gamma1"] * linear(w, base + "attn.to_out.0", statistics(v, w[base + "attn.temp"]).flatten(2))
        y = gelu(linear(w, base + "mlp.fc1", norm(w, base + "norm2", x, 1e-6)))
        x = x + w[base + "gamma2"] * linear(w, base + "mlp.fc2", y)
        i += 1
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], dim=1)
    for i in range(2):
        x = class_layer(w, f"cls_attn_blocks.{i}.", x, heads, all_normed=all_normed)
    return linear(w, "head", norm(w, "norm", x, 1e-6)[:, 0])


def language(w: Weights, symbols: torch.Tensor, heads: int) -> torch.Tensor:
    x = w["transformer.wte.weight"][symbols] + w["transformer.wpe.weight"][: symbols.shape[1]]
    i = 0
    while f"transformer.h.{i}.gamma1" in w:
        base = f"transformer.h.{i}."
        v = linear(w, base + "attn.c_attn", norm(w, base + "ln_1", x, 1e-5)).unflatten(-1, (heads, -1))
        attended = causal_statistics(v, w[base + "attn.temp"], w[base + "attn.denom_bias"]).flatten(2)
        x = x + w[base + "gamma1"] * linear(w, base + "attn.c_proj", attended)
        y = gelu(linear(w, base + "mlp.c_fc", norm(w, base + "ln_2", x, 1e-5)))
        x = x + w[base + "gamma2"] * linear(w, base + "mlp.c_proj", y)
        i += 1
    return linear(w, "lm_head", norm(w, "transformer.ln_f", x, 1e-5))


def cbt(w: Weights, images: torch.Tensor, heads: int) -> torch.Tensor:
    x, grid = stem(w, "to_patch_embedding.proj", images)
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], dim=1) + w["pos_embedding"]
    p = x.shape[-1] // heads
    i = 0
    while f"transformer.layers.{i}.1.fn.weight" in w:
        base = f"transformer.layers.{i}."
        v = norm(w, base + "0.norm", x, 1e-5) @ w[base + "0.fn.proj.weight"].T
        laid = v[:, :-1].unflatten(1, grid)  # the class token in the first place, the last patch left out
        windows = []
        for a in range(8):
            for b in range(8):
                rows = slice(a * grid[0] // 8, -(-(a + 1) * grid[0] // 8))
                columns = slice(b * grid[1] // 8, -(-(b + 1) * grid[1] // 8))
                windows.append(laid[:, rows, columns].mean((1, 2)))
        means = torch.stack(windows, dim=1)  # (B, 64, d)
        out = []
        for h in range(heads):
            V, Q = (t[..., h * p : (h + 1) * p] for t in (v, means))
            A = torch.softmax(Q @ V.transpose(1, 2) / math.sqrt(p), dim=-1)
            Q = Q + w[base + "0.fn.step_rep"][h] * (A @ V)
            moved = torch.softmax(Q @ Q.transpose(1, 2) / math.sqrt(p), dim=-1) @ Q
            out.append(w[base + "0.fn.step_x"][h] * (A.transpose(1, 2) @ moved))
        x = x + linear(w, base + "0.fn.to_out", torch.cat(out, dim=-1))
        y, D = norm(w, base + "1.norm", x, 1e-5), w[base + "1.fn.weight"]
        x = F.relu(y + 0.1 * (y @ D - y @ D.T @ D) - 0.01)
        i += 1
    return linear(w, "mlp_head.1", norm(w, "mlp_head.0", x[:, 0], 1e-5))
