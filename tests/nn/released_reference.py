"""The released networks written out plainly from their description, on dictionaries of released names.

Nothing here is imported from the package: explicit softmax, loops over heads, three-product ISTA, convolutions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


class Sizes:
    """Sizes of a small network, oblong where the description allows it."""

    def __init__(self, **changes: object) -> None:
        self.image, self.patch, self.channels = (8, 12), (4, 4), 3
        self.dim, self.heads, self.head_dim, self.depth, self.classes = 16, 3, 4, 2, 5
        self.__dict__.update(changes)

    @property
    def patches(self) -> int:
        return (self.image[0] // self.patch[0]) * (self.image[1] // self.patch[1])

    @property
    def patch_dim(self) -> int:
        return self.patch[0] * self.patch[1] * self.channels


def crate_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    width = s.heads * s.head_dim
    shapes = {
        "pos_embedding": (1, s.patches + 1, s.dim),
        "cls_token": (1, 1, s.dim),
        "to_patch_embedding.1.weight": (s.patch_dim,),
        "to_patch_embedding.1.bias": (s.patch_dim,),
        "to_patch_embedding.2.weight": (s.dim, s.patch_dim),
        "to_patch_embedding.2.bias": (s.dim,),
        "to_patch_embedding.3.weight": (s.dim,),
        "to_patch_embedding.3.bias": (s.dim,),
        **head_shapes(s),
    }
    for i in range(s.depth):
        base = f"transformer.layers.{i}."
        shapes |= {base + f"{j}.norm.{w}": (s.dim,) for j in (0, 1) for w in ("weight", "bias")}
        shapes[base + "0.fn.qkv.weight"] = (width, s.dim)
        if not (s.heads == 1 and s.head_dim == s.dim):
            shapes[base + "0.fn.to_out.0.weight"] = (s.dim, width)
            shapes[base + "0.fn.to_out.0.bias"] = (s.dim,)
        shapes[base + "1.fn.weight"] = (s.dim, s.dim)
    return shapes


def head_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    return {
        "mlp_head.0.weight": (s.dim,),
        "mlp_head.0.bias": (s.dim,),
        "mlp_head.1.weight": (s.classes, s.dim),
        "mlp_head.1.bias": (s.classes,),
    }


def alpha_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    width = s.heads * s.head_dim
    shapes = {
        "conv1.weight": (s.dim, s.channels, *s.patch),
        "conv1.bias": (s.dim,),
        "pos_embedding": (1, s.patches + 1, s.dim),
        "cls_token": (1, 1, s.dim),
        **head_shapes(s),
    }
    for i in range(s.depth):
        base = f"transformer.layers.{i}."
        shapes |= {base + f"{j}.norm.{w}": (s.dim,) for j in (0, 1) for w in ("weight", "bias")}
        shapes[base + "0.fn.qkv.weight"] = (width, s.dim)
        shapes[base + "0.fn.to_out.0.weight"] = (s.dim, width)
        shapes[base + "1.fn.D"] = (s.dim, 4 * s.dim)
        shapes[base + "1.fn.D1"] = (s.dim, 4 * s.dim)
    return shapes


def mae_shapes(s: Sizes) -> dict[str, tuple[int, ...]]:
    width = s.heads * s.head_dim
    shapes = {
        "cls_token": (1, 1, s.dim),
        "pos_embed": (1, s.patches + 1, s.dim),
        "mask_token": (1, 1, s.dim),
        "decoder_pos_embed": (1, s.patches + 1, s.dim),
        "patch_embed.proj.weight": (s.dim, s.channels, *s.patch),
        "patch_embed.proj.bias": (s.dim,),
        "decoder_embed.weight": (s.dim, s.dim),
        "decoder_embed.bias": (s.dim,),
        "decoder_pred.weight": (s.patch_dim, s.dim),
        "decoder_pred.bias": (s.patch_dim,),
    }
    shapes |= {f"{n}.{w}": (s.dim,) for n in ("norm", "decoder_norm") for w in ("weight", "bias")}
    for i in range(s.depth):
        for stack, attention, dictionary in (("blocks", 0, 1), ("decoder_blocks", 1, 0)):
            base = f"{stack}.{i}.layers.0."
            shapes |= {base + f"{j}.norm.{w}": (s.dim,) for j in (0, 1) for w in ("weight", "bias")}
            shapes[base + f"{dictionary}.fn.weight"] = (s.dim, s.dim)
            shapes[base + f"{attention}.fn.qkv.weight"] = (width, s.dim)
            shapes[base + f"{attention}.fn.to_out.0.weight"] = (s.dim, width)
            shapes[base + f"{attention}.fn.to_out.0.bias"] = (s.dim,)
    return shapes


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * (0.3 if len(shape) > 1 else 1.0)
        for name, shape in shapes.items()
    }


def norm(w: Weights, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    centered = x - x.mean(-1, keepdim=True)
    scaled = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def attention(w: Weights, base: str, x: torch.Tensor, s: Sizes) -> torch.Tensor:
    heads = []
    for h in range(s.heads):
        rows = w[base + "qkv.weight"][h * s.head_dim : (h + 1) * s.head_dim]
        v = x @ rows.T
        weights = torch.softmax(v @ v.transpose(-1, -2) / s.head_dim**0.5, dim=-1)
        heads.append(weights @ v)
    out = torch.cat(heads, dim=-1)
    if base + "to_out.0.weight" in w:
        out = out @ w[base + "to_out.0.weight"].T
    if base + "to_out.0.bias" in w:
        out = out + w[base + "to_out.0.bias"]
    return out


def ista(D: torch.Tensor, x: torch.Tensor, step: float, lam: float) -> torch.Tensor:
    """Every token is a column: D x and Dᵀ x."""
    x_d = F.linear(x, D)
    gradient = F.linear(x_d, D.T) - F.linear(x, D.T)
    return F.relu(x - step * gradient - step * lam)


def cut(images: torch.Tensor, s: Sizes) -> torch.Tensor:
    """Patches one by one, each read row by row, pixel by pixel, channel by channel."""
    p1, p2 = s.patch
    corners = [(i, j) for i in range(0, images.shape[2], p1) for j in range(0, images.shape[3], p2)]
    tiles = [images[:, :, i : i + p1, j : j + p2].permute(0, 2, 3, 1) for i, j in corners]
    return torch.stack([tile.reshape(len(images), -1) for tile in tiles], dim=1)


def crate(w: Weights, images: torch.Tensor, s: Sizes, *, pool: str = "cls") -> torch.Tensor:
    x = norm(w, "to_patch_embedding.1", cut(images, s))
    x = F.linear(x, w["to_patch_embedding.2.weight"], w["to_patch_embedding.2.bias"])
    x = norm(w, "to_patch_embedding.3", x)
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], dim=1) + w["pos_embedding"]
    for i in range(s.depth):
        base = f"transformer.layers.{i}."
        x = x + attention(w, base + "0.fn.", norm(w, base + "0.norm", x), s)
        x = ista(w[base + "1.fn.weight"], norm(w, base + "1.norm", x), 0.1, 0.1)
    return head(w, x.mean(1) if pool == "mean" else x[:, 0])


def head(w: Weights, token: torch.Tensor) -> torch.Tensor:
    return F.linear(norm(w, "mlp_head.0", token), w["mlp_head.1.weight"], w["mlp_head.1.bias"])


def alpha(w: Weights, images: torch.Tensor, s: Sizes) -> torch.Tensor:
    x = F.conv2d(images, w["conv1.weight"], w["conv1.bias"], stride=s.patch).flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].repeat(len(x), 1, 1), x], dim=1) + w["pos_embedding"]
    for i in range(s.depth):
        base = f"transformer.layers.{i}."
        x = x + attention(w, base + "0.fn.", norm(w, base + "0.norm", x, 1e-6), s)
        y, D, D1 = norm(w, base + "1.norm", x, 1e-6), w[base + "1.fn.D"], w[base + "1.fn.D1"]
        z = F.relu(0.1 * F.linear(y, D.T) - 0.1 * 0.1)
        z = F.relu(z - 0.1 * F.linear(F.linear(z, D) - y, D.T) - 0.1 * 0.1)
        x = x + F.linear(z, D1)
    return head(w, x[:, 0])


def mae(w: Weights, images: torch.Tensor, hidden: torch.Tensor, s: Sizes) -> torch.Tensor:
    """Predicted patches; every image is walked through alone, patch by patch, where patches are hidden."""
    x = F.conv2d(images, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=s.patch)
    x = x.flatten(2).transpose(1, 2)
    rows = []
    for image, flags in zip(x, hidden, strict=True):
        patches = [w["mask_token"][0, 0] if flag else patch for patch, flag in zip(image, flags, strict=True)]
        rows.append(torch.stack([w["cls_token"][0, 0], *patches]))
    x = torch.stack(rows) + w["decoder_pos_embed"]
    for i in range(s.depth):
        base = f"blocks.{i}.layers.0."
        x = x + attention(w, base + "0.fn.", norm(w, base + "0.norm", x), s)
        x = ista(w[base + "1.fn.weight"], norm(w, base + "1.norm", x), 0.1, 0.5)
    x = norm(w, "norm", x, 1e-6)
    for i in range(s.depth):
        base = f"decoder_blocks.{i}.layers.0."
        y = F.linear(norm(w, base + "0.norm", x), w[base + "0.fn.weight"])
        x = y - attention(w, base + "1.fn.", norm(w, base + "1.norm", y), s)
    x = norm(w, "decoder_norm", x, 1e-6)
    return F.linear(x, w["decoder_pred.weight"], w["decoder_pred.bias"])[:, 1:]


def mae_loss(w: Weights, images: torch.Tensor, hidden: torch.Tensor, s: Sizes, *, normalize: bool) -> torch.Tensor:
    predicted, targets = mae(w, images, hidden, s), cut(images, s)
    if normalize:
        targets = (targets - targets.mean(-1, keepdim=True)) / (targets.var(-1, keepdim=True) + 1e-6) ** 0.5
    errors = [((p - t) ** 2).mean() for p, t in zip(predicted[hidden], targets[hidden], strict=True)]
    return torch.stack(errors).mean()
