"""Masked autoencoder: CRATE encoder on visible and mask tokens, its mirror image as decoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from srr._array.checks import check_count
from srr.nn.crate import build_blocks, layer_steps, with_class_token
from srr.nn.halves import HalfObjective
from srr.nn.layers import MSSA
from srr.nn.losses import reconstruction_loss, standardize_patches
from srr.nn.network import NetworkConfig, Size, check_images, pair, patch_grid, patchify, prepend
from srr.nn.pretrained import PretrainedModel
from srr.solvers.driver import unroll

__all__ = ["CrateMAE", "DecoderBlock", "MaeConfig", "random_patch_mask", "sincos_positions", "unpatchify"]


@dataclass(frozen=True)
class MaeConfig(NetworkConfig):
    """Description of a :class:`srr.nn.CrateMAE` autoencoder.

    Args:
        image_size: height and width in pixels.
        patch_size: height and width of a patch.
        channels: channels of an image.
        decoder_depth: number of decoder layers.
        mask_ratio: share of patches hidden by :meth:`srr.nn.CrateMAE.draw_mask`.
        normalize_targets: compare with patches of zero mean and unit variance.
        code: width of a code of unit norm, the only thing that the decoder sees of an image; 0 passes all tokens on.

    Raises:
        ValueError: a count below one, an image that is no whole number of patches, a ratio outside (0, 1), a code of
            negative width.

    Example:
        >>> MaeConfig(image_size=32, patch_size=4).grid
        (8, 8)
    """

    lam: float = 0.5
    image_size: Size = 224
    patch_size: Size = 16
    channels: int = 3
    decoder_depth: int = 12
    mask_ratio: float = 0.75
    normalize_targets: bool = False
    code: int = 0

    counts: ClassVar[tuple[str, ...]] = (*NetworkConfig.counts, "channels", "decoder_depth")

    def __post_init__(self) -> None:
        super().__post_init__()
        patch_grid(self.image_size, self.patch_size)
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio must lie between 0 and 1; got {self.mask_ratio}")
        check_count(self.code, "code", least=0)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return patch_grid(self.image_size, self.patch_size)


class DecoderBlock(nn.Module):
    r"""One CRATE-MAE decoder layer, the two halves of an encoder layer run backwards.

    .. math::

        Z^{\ell+1/2} = \mathrm{LN}(Z^\ell)\, D^\top, \qquad
        Z^{\ell+1} = Z^{\ell+1/2} - \mathrm{MSSA}(\mathrm{LN}\, Z^{\ell+1/2})

    Args:
        dim: width d of a token.
        heads: number K of subspaces.
        head_dim: dimension p of each.
        norm_eps: variance floor of the layer norms.

    Shapes:
        ``(..., n, dim)`` to ``(..., n, dim)``; ``mask`` is ``(..., n)``, True at real tokens.

    Source: [MAE], decoder layer.

    Example:
        >>> DecoderBlock(dim=8, heads=2, head_dim=4)(torch.zeros(3, 5, 8)).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, dim: int, heads: int, head_dim: int, *, norm_eps: float = 1e-5) -> None:
        super().__init__()
        self.dictionary_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.D = nn.Parameter(torch.empty(dim, dim))
        nn.init.kaiming_uniform_(self.D)
        self.attention_norm = nn.LayerNorm(dim, eps=norm_eps)
        self.attention = MSSA(dim, heads, head_dim)

    @property
    def objective(self) -> dict[str, HalfObjective]:
        """What the two halves are steps on, and whether descent is proved."""
        expand = HalfObjective("Z½ = LN(Z) Dᵀ", None, "tokens are read back from sparse codes, in one product")
        undo = HalfObjective(
            "Z⁺ = Z½ − Σ softmax(p^-½ V Vᵀ) V Oᵀ − b, V = LN(Z½) U",
            "−R^c(Z; U)",
            "the flow of the encoder with time reversed; as there, the softmax stands in for the gradient, O is free",
        )
        return {"expand": expand, "undo": undo}

    def forward(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Both halves."""
        Y = self.dictionary_norm(Z) @ self.D.mT
        return Y - self.attention(self.attention_norm(Y), mask)


class CrateMAE(PretrainedModel):
    r"""Masked autoencoder whose encoder is CRATE with λ = 0.5 and whose decoder runs its layers backwards.

    Hidden patches are replaced by one learned token *before* the encoder, which therefore sees every
    position.

    The training loss is the mean squared error of hidden patches.

    With ``code`` in the config the tokens meet in one vector of unit norm, a linear map of all of them, and the decoder
    begins from a linear map of that: an autoencoder in the usual sense, as :func:`srr.nn.ctrl_loss` needs one.

    Args:
        config: sizes and choices, see :class:`srr.nn.MaeConfig`.

    Shapes:
        images ``(B, channels, height, width)`` and ``hidden`` ``(B, patches)``, True at hidden patches, to
        predicted patches ``(B, patches, patch_dim)`` in the order of :func:`srr.nn.patchify`; ``mask`` is
        ``(B, patches)``, True at real patches of padded images.

    The released files carry a second position table and a linear map that no computation reads. They are kept as frozen
    parameters in ``unread``, so that such a file loads and saves without loss and the parameter count is the published
    one.

    Source: [MAE].

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_mae_micro")
        >>> images = torch.zeros(2, 1, 8, 8)
        >>> hidden = model.draw_mask(2, seed=0)
        >>> model(images, hidden).shape, model.loss(images, hidden).shape
        (torch.Size([2, 16, 4]), torch.Size([]))
    """

    config: MaeConfig
    config_type = MaeConfig

    def __init__(self, config: MaeConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        p1, p2 = pair(config.patch_size)
        patch_dim = p1 * p2 * config.channels
        self.linear = nn.Linear(patch_dim, dim)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, dim))
        table = sincos_positions(config.grid, dim)[None]  # (1, 1 + n, d)
        self.positions = nn.Parameter(table, requires_grad=False)
        self.blocks = build_blocks(config)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_blocks = nn.ModuleList(
            DecoderBlock(dim, config.heads, config.head_dim, norm_eps=config.norm_eps)
            for _ in range(config.decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, patch_dim)
        if config.code:
            width = table[0].numel()  # (1 + n) d
            self.gather, self.scatter = nn.Linear(width, config.code), nn.Linear(config.code, width)
        self._start_linear_maps()
        unread = {"positions": table.clone(), "weight": torch.zeros(dim, dim), "bias": torch.zeros(dim)}
        self.unread = nn.ParameterDict(
            {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in unread.items()}
        )

    def _start_linear_maps(self) -> None:
        for linear in (self.linear, self.predict):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def embed(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Tokens before the encoder, mask tokens in hidden places: (B, C, H, W) to (B, 1 + n, d)."""
        check_images(images, self.config.channels, pair(self.config.image_size))
        Z = self.linear(patchify(images, self.config.patch_size))  # (B, C, H, W) -> (B, n, d)
        if hidden is not None:
            Z = torch.where(hidden[..., None], self.mask_token, Z)
        return prepend(self.class_token, Z) + self.positions  # (B, 1 + n, d)

    def encode(self, images: Tensor, hidden: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Features of the images after the encoder norm: (B, C, H, W) to (B, 1 + n, d), class token first."""
        Z = self.embed(images, hidden)
        return self.norm(unroll(self._steps(self.blocks, mask), Z))

    def encode_one(self, images: Tensor, hidden: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """The code of unit norm of each image: (B, C, H, W) to (B, code).

        Raises:
            ValueError: the config has no code.
        """
        if not self.config.code:
            raise ValueError("a code of unit norm needs a network with code in its config; got code=0")
        tokens = self.encode(images, hidden, mask)  # (B, 1 + n, d)
        return nn.functional.normalize(self.gather(tokens.flatten(1)), dim=-1)

    def decode(self, Z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predicted patches from features (B, 1 + n, d), or from codes (B, code): (B, n, patch_dim)."""
        if Z.ndim == 2:
            Z = self.scatter(Z).unflatten(-1, (-1, self.config.dim))  # (B, code) -> (B, 1 + n, d)
        Z = self.decoder_norm(unroll(self._steps(self.decoder_blocks, mask), Z))
        return self.predict(Z)[:, 1:]  # (B, 1 + n, d) -> (B, n, patch_dim)

    def forward(self, images: Tensor, hidden: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Predicted patches of the images, some of them hidden."""
        encode = self.encode_one if self.config.code else self.encode
        return self.decode(encode(images, hidden, mask), mask)

    def draw_mask(self, batch: int, *, seed: int | torch.Generator) -> Tensor:
        """Patches to hide, (batch, patches), at the ratio of the config."""
        rows, columns = self.config.grid
        mask = random_patch_mask(batch, rows * columns, ratio=self.config.mask_ratio, seed=seed)
        return mask.to(self.positions.device)

    def targets(self, images: Tensor) -> Tensor:
        """What the patches are compared with: (B, C, H, W) to (B, n, patch_dim)."""
        patches = patchify(images, self.config.patch_size)
        return standardize_patches(patches) if self.config.normalize_targets else patches

    def loss(
        self,
        images: Tensor,
        hidden: Tensor,
        mask: Tensor | None = None,
        *,
        predicted: Tensor | None = None,
        group: ProcessGroup | None = None,
    ) -> Tensor:
        """Mean squared error of the hidden patches that are real, one number for the batches of all ranks.

        Args:
            images: (B, channels, height, width).
            hidden: (B, patches), True at hidden patches.
            mask: (B, patches), True at real patches; all are by default.
            predicted: what the model, perhaps wrapped, has predicted already; computed here by default.
            group: processes whose batches make one batch, all of them by default.
        """
        if predicted is None:
            predicted = self(images, hidden, mask)
        counted = hidden if mask is None else hidden & mask
        return reconstruction_loss(predicted, self.targets(images), counted, group=group)

    def reconstruct(self, images: Tensor, hidden: Tensor) -> Tensor:
        """Images whose hidden patches are the predicted ones: (B, C, H, W)."""
        seen = patchify(images, self.config.patch_size)  # (B, n, patch_dim)
        patches = torch.where(hidden[..., None], self(images, hidden), seen)
        return unpatchify(patches, self.config.image_size, self.config.patch_size)

    def _steps(self, blocks: nn.ModuleList, mask: Tensor | None) -> Iterator[Callable[[Tensor], Tensor]]:
        recompute = self.config.checkpoint_blocks and self.training
        return layer_steps(blocks, with_class_token(mask, math.prod(self.config.grid)), recompute=recompute)


def random_patch_mask(batch: int, patches: int, *, ratio: float, seed: int | torch.Generator) -> Tensor:
    """Patches to hide: in every image all but the ⌊patches · (1 − ratio)⌋ with the smallest of uniform noise.

    Args:
        batch: number of images.
        patches: patches of an image.
        ratio: share to hide, between 0 and 1.
        seed: seed or generator of the noise.

    Returns:
        Boolean (batch, patches), True where hidden.

    Raises:
        ValueError: a count below one or a ratio outside [0, 1].

    Example:
        >>> random_patch_mask(2, 8, ratio=0.75, seed=0).sum(dim=1)
        tensor([6, 6])
    """
    check_count(batch, "batch")
    check_count(patches, "patches")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio must lie in [0, 1]; got {ratio}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, patches, generator=generator, device=generator.device)
    return noise.argsort(dim=1).argsort(dim=1) >= int(patches * (1 - ratio))  # rank of each patch's noise


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """Fixed two-dimensional sine-cosine positions with a zero row for the class token in front.

    The first half of the coordinates encodes the column, the second the row; each half is sines then
    cosines of the index times 10000^(-4i/dim), i = 0 … dim/4 − 1.

    Args:
        grid: rows and columns of patches.
        dim: width of a token, a multiple of four.

    Returns:
        Table (1 + rows · columns, dim), patches in reading order.

    Raises:
        ValueError: dim is no multiple of four.

    Source: [MAE], positions of encoder and decoder.

    Example:
        >>> sincos_positions((2, 3), 8).shape
        torch.Size([7, 8])
    """
    if dim % 4:
        raise ValueError(f"dim must be a multiple of 4; got {dim}")
    rows, columns = grid
    frequencies = 10000.0 ** (-4.0 * torch.arange(dim // 4, dtype=torch.float64) / dim)
    angles = torch.arange(max(grid), dtype=torch.float64)[:, None] * frequencies  # (side, dim/4)
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)  # (side, dim/2)
    across = waves[:columns].expand(rows, -1, -1)  # (rows, columns, dim/2)
    down = waves[:rows, None].expand(-1, columns, -1)  # (rows, columns, dim/2)
    table = torch.cat((across, down), dim=2).flatten(0, 1)  # (rows · columns, dim)
    return torch.cat((torch.zeros(1, dim, dtype=torch.float64), table)).to(torch.get_default_dtype())


def unpatchify(patches: Tensor, image_size: Size, patch_size: Size) -> Tensor:
    """Images from the rows :func:`patchify` makes of them.

    Args:
        patches: (B, n, p1 · p2 · C).
        image_size: height and width of the images.
        patch_size: height p1 and width p2 of a patch.

    Returns:
        (B, C, H, W).

    Example:
        >>> images = torch.randn(2, 3, 8, 12)
        >>> torch.equal(unpatchify(patchify(images, 4), (8, 12), 4), images)
        True
    """
    (h, w), (p1, p2) = patch_grid(image_size, patch_size), pair(patch_size)
    tiles = patches.reshape(-1, h, w, p1, p2, patches.shape[-1] // (p1 * p2))  # (B, h, w, p1, p2, C)
    return tiles.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)  # (B, C, H, W)
