"""How large the runs are: one set for two cores of a CPU, one for a GPU. The experiments are the same."""

from __future__ import annotations

from dataclasses import dataclass

FASHION = ("data.name=fashion-mnist", "optim.weight_decay=0.05", "trainer.clip_norm=1.0")
BLOCKS = {"CRATE-C": "crate_c", "CRATE-N": "crate_n", "CRATE-T": "crate_t", "CRATE-Fix": "crate_fix"}
ABLATED = {"strict MSSA, equations (11)-(12)": "crate_strict", "sparsify step of Appendix A.3": "crate_prox_mm"}

IMAGE_NETWORKS = (
    "crate",
    "crate_descent",
    "crate_descent_zero",
    "crate_energy",
    "tost",
    "vit_parameters",
    "no_attention",
)
TEXT_NETWORKS = ("crate", "crate_energy", "tost", "alpha", "attention_only", "gpt_parameters", "no_attention")


@dataclass(frozen=True)
class Corrupted:
    """Training on labels of which a share is redrawn: words for either objective."""

    cross_entropy: tuple[str, ...]
    mcr2: tuple[str, ...]
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Earlier:
    """Recipes of the experiments whose numbers are kept from an earlier state of the code."""

    images: tuple[str, ...]
    weights: tuple[str, ...]
    blocks: dict[str, str]
    masked: tuple[str, ...]
    corrupted: dict[str, Corrupted]


@dataclass(frozen=True)
class Budget:
    """Sizes of every experiment.

    Args:
        images: words of the CRATE classifier that all image experiments begin from; the others have its parameters.
        patches: what changes with the side of a patch.
        text: words of the language models.
        recall: words of the networks that are asked for a value by its key.
        depths: numbers of layers.
        steps: numbers of inner steps.
        trial: what a run is cut to while a choice is made on held-out training samples, by the kind of data.
        rates: learning rates to choose from, by the kind of data.
        chosen: the rate that was best there, by kind of data and network.
        improved: the changed descending network that was best there.
        earlier: recipes of earlier numbers.
    """

    images: tuple[str, ...]
    patches: dict[str, tuple[str, ...]]
    text: tuple[str, ...]
    recall: tuple[str, ...]
    depths: tuple[int, ...]
    steps: tuple[int, ...]
    trial: dict[str, tuple[str, ...]]
    rates: dict[str, tuple[str, ...]]
    chosen: dict[str, dict[str, str]]
    improved: str
    earlier: Earlier

    def words(self, kind: str, network: str) -> tuple[str, ...]:
        """The recipe of a network on a kind of data, with the learning rate that was chosen for it."""
        recipe: tuple[str, ...] = {"images": self.images, "text": self.text, "recall": self.recall}[kind]
        family = network if network in self.chosen[kind] else "crate_descent"  # changed networks keep its rate
        return (*recipe, f"optim.lr={self.chosen[kind][family]}")


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
RECALL = ("data.name=own:recall", "optim.weight_decay=0.05", "trainer.clip_norm=1.0")
MASKED = ("objective.name=masked", "model.decoder_depth=4")

_small = (*FASHION, *size("crate_micro", 64, 4, patch=7), *training(256, "8e-3", 3, 0.3, shift=0))
_small_mcr2 = (*_small, *training(500, "8e-3", 3, 0.3))
_large = (*FASHION, *size("crate_micro", 128, 6, patch=4), *training(512, "2e-3", 20, 2.0, shift=2))
_large_mcr2 = (*_large, *training(1000, "4e-3", 20, 2.0))

SMALL_CHOSEN: dict[str, dict[str, str]] = {
    "images": {
        "crate": "8e-3",
        "crate_descent": "32e-3",
        "crate_descent_zero": "8e-3",
        "crate_energy": "32e-3",
        "tost": "16e-3",
        "vit_parameters": "16e-3",
        "no_attention": "32e-3",
    },
    "text": {
        "crate": "16e-3",
        "crate_energy": "16e-3",
        "tost": "16e-3",
        "alpha": "8e-3",
        "attention_only": "8e-3",
        "gpt_parameters": "8e-3",
        "no_attention": "32e-3",
    },
    "recall": {
        "crate": "4e-3",
        "crate_descent": "16e-3",
        "crate_descent_zero": "8e-3",
        "crate_energy": "2e-3",
        "tost": "2e-3",
        "vit_parameters": "16e-3",
        "no_attention": "16e-3",
    },
}

BUDGETS = {
    "small": Budget(
        images=(
            *FASHION,
            "data.limit=20000",
            *size("crate_micro", 64, 4, patch=7),
            *training(128, "4e-3", 2, 0.2, shift=0),
        ),
        patches={"7": ("model.patch_size=7",), "4": ("model.patch_size=4", "trainer.max_epochs=1")},
        text=(
            *BOOK,
            *size("crate_causal_micro", 64, 4),
            "data.context=64",
            *training(32, "8e-3", 1, 0.1),
            "trainer.max_steps=400",
            "trainer.clip_norm=1.0",
        ),
        recall=(*RECALL, "data.samples=30000", *size("crate_micro", 64, 4, patch=4), *training(128, "4e-3", 2, 0.1)),
        depths=(1, 2, 4, 8),
        steps=(1, 2, 4),
        trial={
            "images": ("data.limit=13333",),
            "text": ("trainer.max_steps=200",),
            "recall": ("data.samples=40000", "trainer.max_epochs=1"),
        },
        rates={
            "images": ("2e-3", "4e-3", "8e-3", "16e-3", "32e-3"),
            "text": ("4e-3", "8e-3", "16e-3", "32e-3"),
            "recall": ("1e-3", "2e-3", "4e-3", "8e-3", "16e-3"),
        },
        chosen=SMALL_CHOSEN,
        improved="descent_2_codes",
        earlier=Earlier(
            images=_small,
            weights=("0.001", "0.01"),
            blocks=BLOCKS,
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
        ),
    ),
    "large": Budget(
        images=_large,
        patches={"7": ("model.patch_size=7",), "4": ("model.patch_size=4",)},
        text=(*BOOK, *size("crate_causal_micro", 256, 6), *training(64, "1e-3", 8, 0.5), "trainer.clip_norm=1.0"),
        recall=(*RECALL, "data.samples=300000", *size("crate_micro", 128, 6, patch=4), *training(512, "2e-3", 2, 0.1)),
        depths=(2, 4, 6, 12),
        steps=(1, 2, 4, 8),
        trial={"images": ("trainer.max_epochs=5",), "text": ("trainer.max_epochs=2",), "recall": ()},
        rates=dict.fromkeys(("images", "text", "recall"), ("1e-3", "2e-3", "4e-3")),
        chosen={
            "images": dict.fromkeys(IMAGE_NETWORKS, "2e-3"),
            "text": dict.fromkeys(TEXT_NETWORKS, "1e-3"),
            "recall": dict.fromkeys(IMAGE_NETWORKS, "2e-3"),
        },
        improved="descent_2_steps",
        earlier=Earlier(
            images=_large,
            weights=("0.001", "0.01"),
            blocks={**BLOCKS, **ABLATED},
            masked=(*_large, *size("crate_mae_micro", 128, 6, patch=4), *MASKED, "optim.lr=1e-3"),
            corrupted={
                "60,000": Corrupted(_large, _large_mcr2, (0.0, 0.1, 0.3, 0.5)),
                "5,000": Corrupted(
                    (*_large, "data.limit=5000", *training(128, "1e-3", 100, 5.0)),
                    (*_large_mcr2, "data.limit=5000", *training(500, "4e-3", 100, 5.0)),
                    (0.0, 0.1, 0.3, 0.5),
                ),
            },
        ),
    ),
}
