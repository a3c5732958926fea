"""Which runs make which table: every run is a list of words for the training config, a network and a measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

SHAPE = ("model.preset=crate_micro", "model.dim=128", "model.depth=6", "model.heads=4", "model.head_dim=32")
RECIPE = (
    "data.batch_size=512",
    "optim.lr=2e-3",
    "optim.weight_decay=0.05",
    "trainer.max_epochs=20",
    "trainer.clip_norm=1.0",
)
FASHION = ("data.name=fashion-mnist", "model.patch_size=4", "augment.shift=2")
BASE = (*FASHION, *SHAPE, *RECIPE)


@dataclass(frozen=True)
class Job:
    """One training run: what is told apart in a table (``name``), how it is made, and what is measured on it."""

    experiment: str
    name: str
    words: tuple[str, ...]
    network: str = "crate"
    measure: str = "none"
    seed: int = 0

    @property
    def key(self) -> str:
        """A name for its file that two tables share when they share the run."""
        made = json.dumps([self.words, self.network, self.measure, self.seed])
        return hashlib.sha256(made.encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Text that :meth:`from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job of a text."""
        values = json.loads(text)
        return cls(**{**values, "words": tuple(values["words"])})


def vit() -> Iterator[Job]:
    """CRATE against standard transformers of equal parameters, equal operations, and equal width."""
    for data in ("fashion-mnist", "mnist"):
        words = (*BASE, f"data.name={data}")
        for network in ("crate", "vit_parameters", "vit_flops", "vit_width"):
            yield Job("vit", f"{data}/{network}", words, network)


def layers() -> Iterator[Job]:
    """Coding rate and sparsity by layer, trained against untrained, for three sizes."""
    sizes = {"64x4": (64, 4), "128x6": (128, 6), "192x8": (192, 8)}
    for name, (dim, depth) in sizes.items():
        words = (*BASE, f"model.dim={dim}", f"model.depth={depth}", f"model.head_dim={dim // 4}")
        yield Job("layers", name, words, measure="layers")


def variants() -> Iterator[Job]:
    """Regularised training, and the variants of the attention step."""
    yield Job("variants", "CRATE", BASE)
    for weight in ("0.001", "0.01"):
        yield Job("variants", f"CRATE, cross-entropy - {weight} SRR", (*BASE, f"objective.srr_weight={weight}"))
    for name, block in {"C": "crate_c", "N": "crate_n", "T": "crate_t", "Fix": "crate_fix"}.items():
        yield Job("variants", f"CRATE-{name}", (*BASE, f"model.block={block}"))
    yield Job("variants", "strict MSSA, equations (11)-(12)", (*BASE, "model.block=crate_strict"))
    yield Job("variants", "sparsify step of Appendix A.3", (*BASE, "model.block=crate_prox_mm"))


def steps() -> Iterator[Job]:
    """Step and sparsity weight of the ISTA block."""
    for step, lam in ((0.1, 0.1), (0.02, 0.1), (0.5, 0.1), (0.1, 0.02), (0.1, 0.5)):
        changed = () if step == lam == 0.1 else (f"model.step={step}", f"model.lam={lam}")
        yield Job("steps", f"{step}/{lam}", (*BASE, *changed))


def language() -> Iterator[Job]:
    """Next byte of a book: causal CRATE against a standard causal transformer of equal parameters."""
    words = (
        "data.name=text:moby-dick.txt",
        "data.held_out=0.1",
        "data.context=128",
        "data.batch_size=64",
        "model.preset=crate_causal_micro",
        "model.dim=256",
        "model.depth=6",
        "model.heads=4",
        "model.head_dim=64",
        "objective.name=next_token",
        "optim.lr=1e-3",
        "trainer.max_epochs=8",
        "trainer.clip_norm=1.0",
    )
    for network in ("crate", "gpt_parameters"):
        yield Job("language", network, words, network)


def masked() -> Iterator[Job]:
    """Masked autoencoding and what a linear probe reads from its features, beside the probe of an untrained encoder."""
    words = (
        *BASE,
        "model.preset=crate_mae_micro",
        "model.decoder_depth=4",
        "objective.name=masked",
        "optim.lr=1e-3",
    )
    yield Job("masked", "CrateMAE", words, measure="probe")


def labels() -> Iterator[Job]:
    """MCR² against cross-entropy when training labels are wrong."""
    for fraction in (0.0, 0.1, 0.3, 0.5):
        for objective in ("cross_entropy", "mcr2"):
            words = (
                *BASE,
                "data.batch_size=1000",
                "optim.lr=1e-3",
                "trainer.max_epochs=12",
                f"objective.name={objective}",
                f"data.corrupt_labels={fraction}",
            )
            yield Job("labels", f"{fraction}/{objective}", words, measure="subspaces")


EXPERIMENTS = {f.__name__: f for f in (vit, layers, variants, steps, language, masked, labels)}
