"""The CRATE classifier: embed the image, unroll the layers, read the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srr.nn.config import CrateConfig
from srr.nn.embed import PatchEmbedding
from srr.nn.pretrained import PretrainedModel
from srr.nn.variants import build_blocks
from srr.solvers.driver import unroll

__all__ = ["CRATE", "ClassifierHead"]


class ClassifierHead(nn.Module):
    """Layer norm and linear map of one pooled token to class scores.

    Args:
        dim: width of a token.
        num_classes: number of classes.

    Shapes:
        ``(..., dim)`` to ``(..., num_classes)``.

    Example:
        >>> import torch
        >>> ClassifierHead(8, 10)(torch.zeros(2, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, num_classes)

    def forward(self, token: Tensor) -> Tensor:
        """Class scores, unnormalized."""
        return self.linear(self.norm(token))


class CRATE(PretrainedModel):
    """White-box transformer classifier: embed → unroll(blocks) → head.

    Args:
        config: sizes and choices, see :class:`srr.nn.CrateConfig`.

    Shapes:
        images ``(B, channels, height, width)`` to scores ``(B, num_classes)``; ``mask`` is ``(B,
        patches)``, True at real patches, for batches of padded images.

    Source: [CRATE] section 2.4, sizes of its Table 4.

    Example:
        >>> import torch
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    config: CrateConfig
    config_type = CrateConfig

    def __init__(self, config: CrateConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = PatchEmbedding(
            config.image_size,
            config.patch_size,
            channels=config.channels,
            dim=config.dim,
            norm=config.patch_norm,
            position_std=config.position_std,
        )
        self.blocks = build_blocks(config)
        self.head = ClassifierHead(config.dim, config.num_classes)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """Class scores of the images."""
        Z = self.embed(images)  # (B, C, H, W) -> (B, 1 + n, d)
        mask = with_class_token(mask)
        Z = unroll(self.steps(mask), Z)
        return self.head(self.pool(Z, mask))

    def steps(self, mask: Tensor | None = None) -> Iterator[Callable[[Tensor], Tensor]]:
        """The layers as functions of the tokens alone, recomputed in the backward pass if so configured.

        The head reads one token of a network that pools the class token. Its last layer computes that token alone,
        unless a hook watches the layer.
        """
        rows = 1 if self.config.pool == "cls" and not is_watched(self.blocks[-1]) else None
        return layer_steps(self.blocks, mask, last_rows=rows, recompute=self.config.checkpoint_blocks and self.training)

    def pool(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """The token the head reads: (B, 1 + n, d) to (B, d)."""
        if self.config.pool == "cls":
            return Z[:, 0]  # (B, d)
        if mask is None:
            return Z.mean(dim=1)  # (B, d)
        real = mask[..., None].to(Z.dtype)  # (B, 1 + n, 1)
        return (Z * real).sum(dim=1) / real.sum(dim=1)  # (B, d)


def layer_steps(
    blocks: nn.ModuleList, mask: Tensor | None, *, recompute: bool, last_rows: int | None = None
) -> Iterator[Callable[[Tensor], Tensor]]:
    """Blocks as steps of an unrolled solver; the last computes its first ``last_rows`` tokens, all when None."""
    run = partial(checkpoint, use_reentrant=False) if recompute else call
    for place, block in enumerate(blocks, start=1):
        rows: dict[str, Any] = {"rows": last_rows} if last_rows is not None and place == len(blocks) else {}
        yield partial(run, block, mask=mask, **rows)


def call(block: nn.Module, Z: Tensor, **options: Any) -> Tensor:
    """A layer applied as it is."""
    return block(Z, **options)


def is_watched(block: nn.Module) -> bool:
    """Whether a hook on the layer or inside it may read tokens."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in block.modules())


def with_class_token(mask: Tensor | None) -> Tensor | None:
    """Token mask (B, 1 + n) from a patch mask (B, n): the class token is always real."""
    return None if mask is None else nn.functional.pad(mask, (1, 0), value=True)
