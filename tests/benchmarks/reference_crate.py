"""CRATE as the paper prints it: three products in every ISTA step, the attention matrix written out.

Parameters carry the names of the released classifier, so that any checkpoint of it loads. Shares no code with ``srr``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """[softmax(w wᵀ p^{-1/2}) w]_heads W + b with w = LN(x) qkvᵀ."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.qkv = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        w = self.qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, n, p)
        attention = torch.softmax(torch.matmul(w, w.transpose(-1, -2)) * self.scale, dim=-1)
        return self.to_out(torch.matmul(attention, w).transpose(1, 2).flatten(-2))


class ThreeProductISTA(nn.Module):
    """relu(x + η(Dᵀx − DᵀDx) − ηλ), each product of a matrix and the tokens taken in turn."""

    def __init__(self, dim: int, step: float = 0.1, lam: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.weight)
        self.step, self.lam = step, lam

    def forward(self, x: Tensor) -> Tensor:
        code = nn.functional.linear(x, self.weight)  # D x
        twice = nn.functional.linear(code, self.weight.t())  # Dᵀ D x
        back = nn.functional.linear(x, self.weight.t())  # Dᵀ x
        return nn.functional.relu(x + self.step * (back - twice) - self.step * self.lam)


class PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Transformer(nn.Module):
    def __init__(self, dim: int, depth: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(dim, Attention(dim, heads, head_dim)), PreNorm(dim, ThreeProductISTA(dim))])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for attention, ista in self.layers:
            x = ista(x + attention(x))
        return x


class Patches(nn.Module):
    """(B, C, H, W) to (B, patches, p·p·C), channel fastest."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        p = self.patch
        tiles = images.unfold(2, p, p).unfold(3, p, p)  # (B, C, h, w, p1, p2)
        return tiles.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


class ReferenceCRATE(nn.Module):
    """The released classifier on square images, class token pooled."""

    def __init__(self, *, dim: int, depth: int, heads: int, head_dim: int = 64, image: int = 224, patch: int = 16,
                 channels: int = 3, classes: int = 1000) -> None:  # fmt: skip
        super().__init__()
        width = channels * patch * patch
        self.to_patch_embedding = nn.Sequential(
            Patches(patch), nn.LayerNorm(width), nn.Linear(width, dim), nn.LayerNorm(dim)
        )
        self.pos_embedding = nn.Parameter(torch.randn(1, (image // patch) ** 2 + 1, dim))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = Transformer(dim, depth, heads, head_dim)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def forward(self, images: Tensor) -> Tensor:
        x = self.to_patch_embedding(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embedding
        return self.mlp_head(self.transformer(x)[:, 0])


SIZES = {"tiny": {"dim": 384, "heads": 6, "depth": 12}, "base": {"dim": 768, "heads": 12, "depth": 12}}


def reference_crate(size: str, **changes: int) -> ReferenceCRATE:
    """Reference model of a named size."""
    return ReferenceCRATE(**{**SIZES[size], **changes})


def twin_weights(reference: ReferenceCRATE, model: nn.Module) -> None:
    """Copy the reference's weights into a ``srr.nn.CRATE`` of the same sizes."""
    from srr.nn import load_released

    load_released(model, reference.state_dict())
