"""How large the runs are: one set for two cores of a CPU, one for a GPU. The experiments are the same."""

from __future__ import annotations

from dataclasses import dataclass

FASHION = ("data.name=fashion-mnist", "optim.weight_decay=0.05", "trainer.clip_norm=1.0")
BLOCKS = {"CRATE-C": "crate_c", "CRATE-N": "crate_n", "CRATE-T": "crate_t", "CRATE-Fix": "crate_fix"}
ABLATED = {"strict MSSA, equations (11)-(12)": "crate_strict", "sparsify step of Appendix A.3": "crate_prox_mm"}


@dataclass(frozen=True)
class Corrupted:
    """Training on labels of which a share is redrawn: words for either objective."""

    cross_entropy: tuple[str, ...]
    mcr2: tuple[str, ...]
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Budget:
    """Sizes of every experiment.

    Args:
        images: words of the CRATE classifier that all image experiments begin from.
        work: its width times its depth.
        vits: the standard transformers beside it.
        sizes: (width, depth) of the networks whose layers are compared.
        weights: weights of the sparse rate reduction in the loss.
        blocks: other layers, by their name in the table.
        text: words of the language models.
        masked: words of the masked autoencoder.
        corrupted: training on redrawn labels, by the number of training images.
        rates: learning rates to choose from.
    """

    images: tuple[str, ...]
    work: int
    vits: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    weights: tuple[str, ...]
    blocks: dict[str, str]
    text: tuple[str, ...]
    masked: tuple[str, ...]
    corrupted: dict[str, Corrupted]
    rates: tuple[str, ...]


def size(preset: str, dim: int, depth: int, *, patch: int | None = None) -> tuple[str, ...]:
    """Words of a network of four heads."""
    shape = (f"model.preset={preset}", f"model.dim={dim}", f"model.depth={depth}", "model.heads=4")
    patches = () if patch is None else (f"model.patch_size={patch}",)
    return (*shape, f"model.head_dim={dim // 4}", *patches)


def training(batch: int, lr: str, epochs: int, warmup: float, *, shift: int | None = None) -> tuple[str, ...]:
    """Words of a recipe."""
    recipe = (f"data.batch_size={batch}", f"optim.lr={lr}", f"trainer.max_epochs={epochs}")
    augment = () if shift is None else (f"augment.shift={shift}",)
    return (*recipe, f"optim.warmup_epochs={warmup}", *augment)


BOOK = ("data.name=text:moby-dick.txt", "data.held_out=0.1", "data.context=128", "objective.name=next_token")
MASKED = ("objective.name=masked", "model.decoder_depth=4")

_small = (*FASHION, *size("crate_micro", 64, 4, patch=7), *training(256, "8e-3", 3, 0.3, shift=0))
_small_mcr2 = (*_small, *training(500, "8e-3", 3, 0.3))
_large = (*FASHION, *size("crate_micro", 128, 6, patch=4), *training(512, "2e-3", 20, 2.0, shift=2))
_large_mcr2 = (*_large, *training(1000, "4e-3", 20, 2.0))

BUDGETS = {
    "small": Budget(
        images=_small,
        work=64 * 4,
        vits=("vit_parameters", "vit_flops"),
        sizes=((32, 3), (64, 4), (96, 6)),
        weights=("0.001", "0.01"),
        blocks=BLOCKS,
        text=(*BOOK, *size("crate_causal_micro", 128, 4), *training(32, "4e-3", 1, 0.1), "trainer.clip_norm=1.0"),
        masked=(
            *_small,
            *size("crate_mae_micro", 64, 4, patch=4),
            *MASKED,
            "model.decoder_depth=2",
            *training(128, "4e-3", 1, 0.1),
        ),
        corrupted={
            "60,000": Corrupted(_small, _small_mcr2, (0.0, 0.5)),
            "5,000": Corrupted(
                (*_small, "data.limit=5000", *training(128, "4e-3", 25, 2.0)),
                (*_small_mcr2, "data.limit=5000", *training(500, "4e-3", 25, 2.0)),
                (0.0, 0.2, 0.5),
            ),
        },
        rates=("4e-3", "8e-3", "16e-3"),
    ),
    "large": Budget(
        images=_large,
        work=128 * 6,
        vits=("vit_parameters", "vit_flops", "vit_width"),
        sizes=((64, 4), (128, 6), (192, 8)),
        weights=("0.001", "0.01"),
        blocks={**BLOCKS, **ABLATED},
        text=(*BOOK, *size("crate_causal_micro", 256, 6), *training(64, "1e-3", 8, 0.5), "trainer.clip_norm=1.0"),
        masked=(*_large, *size("crate_mae_micro", 128, 6, patch=4), *MASKED, "optim.lr=1e-3"),
        corrupted={
            "60,000": Corrupted(_large, _large_mcr2, (0.0, 0.1, 0.3, 0.5)),
            "5,000": Corrupted(
                (*_large, "data.limit=5000", *training(128, "1e-3", 100, 5.0)),
                (*_large_mcr2, "data.limit=5000", *training(500, "4e-3", 100, 5.0)),
                (0.0, 0.1, 0.3, 0.5),
            ),
        },
        rates=("1e-3", "2e-3", "4e-3"),
    ),
}
