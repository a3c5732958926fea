"""Which runs make which table: every run is a list of words for the training config, a network and a measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from budgets import Budget

QUICK = {
    "images": ("trainer.max_epochs=1", "data.limit=2000", "optim.warmup_epochs=0.1"),
    "text": ("trainer.max_epochs=1", "trainer.max_steps=10"),
}


@dataclass(frozen=True)
class Job:
    """One training run: what is told apart in a table (``name``), how it is made, and what is measured on it.

    ``cost`` is a guess of its time, in units of the plain image classifier: the long runs begin first.
    """

    experiment: str
    name: str
    words: tuple[str, ...]
    network: str = "crate"
    measure: str = "none"
    seed: int = 0
    cost: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", last_words(self.words))

    @property
    def key(self) -> str:
        """A name for its file that two tables share when they share the run."""
        made = json.dumps([self.words, self.network, self.measure, self.seed])
        return hashlib.sha256(made.encode()).hexdigest()[:16]

    @property
    def data(self) -> str:
        """The name of its data."""
        return dict(word.split("=", 1) for word in self.words)["data.name"]

    @property
    def quick(self) -> Job:
        """The same on a few samples, for trying the machinery."""
        return replace(self, words=(*self.words, *QUICK["text" if self.data.startswith("text:") else "images"]))

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def last_words(words: Iterable[str]) -> tuple[str, ...]:
    """The last word of every key, sorted: equal configs are equal tuples."""
    return tuple(sorted({word.partition("=")[0]: word for word in words}.values()))


def classifier(experiment: str, name: str, budget: Budget, *words: str, **changes: object) -> Job:
    """A classifier of Fashion-MNIST, whose layers are traced: the tables share the one without changes."""
    made = Job(experiment, name, (*budget.images, *words), measure="layers")
    return replace(made, **changes)  # type: ignore[arg-type]


def vit(budget: Budget) -> Iterator[Job]:
    """CRATE against standard transformers of equal parameters and of equal operations."""
    for data in ("fashion-mnist", "mnist"):
        yield classifier("vit", f"{data}/crate", budget, f"data.name={data}")
        for network in budget.vits:
            words = (f"data.name={data}",)
            yield classifier("vit", f"{data}/{network}", budget, *words, network=network, measure="none")


def layers(budget: Budget) -> Iterator[Job]:
    """Coding rate and sparsity by layer, trained against untrained, for three sizes."""
    for dim, depth in budget.sizes:
        size = (f"model.dim={dim}", f"model.depth={depth}", f"model.head_dim={dim // 4}")
        yield classifier("layers", f"{dim}x{depth}", budget, *size, cost=dim * depth / budget.work)


def variants(budget: Budget) -> Iterator[Job]:
    """Regularized training, and the variants of the attention step."""
    yield classifier("variants", "CRATE", budget)
    for weight in budget.weights:
        words = (f"objective.srr_weight={weight}",)
        yield classifier("variants", f"CRATE, cross-entropy − {weight} SRR", budget, *words, cost=1.5)
    for name, block in budget.blocks.items():
        yield classifier("variants", name, budget, f"model.block={block}")


def steps(budget: Budget) -> Iterator[Job]:
    """Step and sparsity weight of the ISTA block, one changed at a time."""
    for step, lam in ((0.1, 0.1), (0.02, 0.1), (0.5, 0.1), (0.1, 0.02), (0.1, 0.5)):
        changed = () if step == lam == 0.1 else (f"model.step={step}", f"model.lam={lam}")
        yield classifier("steps", f"{step}/{lam}", budget, *changed)


def language(budget: Budget) -> Iterator[Job]:
    """Next byte of a book: causal CRATE against a standard causal transformer of equal parameters."""
    for network in ("crate", "gpt_parameters"):
        yield Job("language", network, budget.text, network, cost=2.5)


def masked(budget: Budget) -> Iterator[Job]:
    """Masked autoencoding and what a linear probe reads from its features, beside the probe of an untrained encoder."""
    yield Job("masked", "CrateMAE", budget.masked, measure="probe", cost=2.0)


def labels(budget: Budget) -> Iterator[Job]:
    """MCR² against cross-entropy when training labels are wrong: many images seen seldom, few seen often."""
    for images, recipe in budget.corrupted.items():
        for fraction in recipe.fractions:
            for objective, words in (("cross_entropy", recipe.cross_entropy), ("mcr2", recipe.mcr2)):
                found = (*words, f"objective.name={objective}", f"data.corrupt_labels={fraction}")
                yield Job("labels", f"{images}/{fraction}/{objective}", found, "crate_features", "subspaces")


def rates(budget: Budget) -> Iterator[Job]:
    """The learning rate of each kind of network, looked for with a seed that no other table uses."""
    kinds = {
        "CRATE": (budget.images, "crate"),
        "ViT": (budget.images, "vit_parameters"),
        "MCR²": ((*budget.corrupted["60,000"].mcr2, "objective.name=mcr2"), "crate_features"),
        "CausalCRATE": (budget.text, "crate"),
        "GPT block": (budget.text, "gpt_parameters"),
        "CrateMAE": (budget.masked, "crate"),
    }
    for name, (words, network) in kinds.items():
        for lr in budget.rates:
            cost = {budget.text: 2.5, budget.masked: 1.7}.get(words, 1.0)
            yield Job("rates", f"{name}/{lr}", (*words, f"optim.lr={lr}"), network, cost=cost)


EXPERIMENTS = {f.__name__: f for f in (vit, layers, variants, steps, language, masked, labels, rates)}
REPORTED = [name for name in EXPERIMENTS if name != "rates"]
TRIAL_SEED = 99
PROBE_SAMPLES = 10_000


def jobs(names: Iterable[str], budget: Budget, *, seeds: int, quick: bool = False) -> list[Job]:
    """Every run of these experiments, those that tables share once for each table."""
    of = {name: [TRIAL_SEED] if name == "rates" else range(seeds) for name in names}
    found = [replace(job, seed=seed) for name in of for job in EXPERIMENTS[name](budget) for seed in of[name]]
    return [job.quick for job in found] if quick else found
