"""Which runs make which table: every run is a list of words for the training config, a network and a measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from budgets import IMAGE_NETWORKS, TEXT_NETWORKS, Budget
from changed import ATTEMPTS

MEASURED = ("crate", "crate_descent", "crate_descent_zero", "crate_energy")
COSTS = {"crate": 1.0, "crate_energy": 1.6, "tost": 0.9, "alpha": 1.3, "vit_parameters": 1.4, "no_attention": 0.6}
"""Time of a run by its network, in units of CRATE; the others take about two."""

QUICK = {
    "images": ("trainer.max_epochs=1", "data.limit=2000", "optim.warmup_epochs=0.1"),
    "text": ("trainer.max_epochs=1", "trainer.max_steps=10"),
    "own": ("trainer.max_epochs=1", "trainer.max_steps=10"),
    "mixture": (),
}


@dataclass(frozen=True)
class Job:
    """One training run: what is told apart in a table (``name``), how it is made, and what is measured on it.

    ``cost`` is a guess of its time, in units of the plain image classifier: the long runs begin first. A ``choice`` is
    measured on held-out training samples, never on the test set.
    """

    experiment: str
    name: str
    words: tuple[str, ...]
    network: str = "crate"
    measure: str = "none"
    seed: int = 0
    cost: float = 1.0
    choice: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", last_words(self.words))

    @property
    def key(self) -> str:
        """A name for its file that two tables share when they share the run."""
        made = json.dumps([self.words, self.network, self.measure, self.seed, self.choice])
        return hashlib.sha256(made.encode()).hexdigest()[:16]

    @property
    def data(self) -> str:
        """The name of its data."""
        return dict(word.split("=", 1) for word in self.words)["data.name"]

    @property
    def quick(self) -> Job:
        """The same on a few samples, for trying the machinery."""
        return replace(self, words=(*self.words, *QUICK.get(self.data.partition(":")[0], QUICK["images"])))

    def to_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def last_words(words: Iterable[str]) -> tuple[str, ...]:
    """The last word of every key, sorted: equal configs are equal tuples."""
    return tuple(sorted({word.partition("=")[0]: word for word in words}.values()))


def classifier(experiment: str, name: str, budget: Budget, network: str, *words: str, **changes: Any) -> Job:
    """A classifier of images with the rate of its network; the layers of CRATE and its descending kin are measured."""
    made = Job(experiment, name, (*budget.words("images", network), *words), network)
    plain = {*budget.images, "model.patch_size=7"} - {word for word in budget.images if word.startswith("optim.lr=")}
    measured = network in MEASURED and not changes.get("choice") and plain <= set(made.words)
    return replace(made, **{"measure": "halves" if measured else "none", "cost": COSTS.get(network, 2.0), **changes})


def networks(budget: Budget) -> Iterator[Job]:
    """Every network on both image sets, at two sizes of patches."""
    for data in ("fashion-mnist", "mnist"):
        for patch, words in budget.patches.items():
            zero = data == "fashion-mnist" and patch == "7"
            for network in IMAGE_NETWORKS:
                if network == "crate_descent_zero" and not zero:
                    continue  # a variant of the one before: once is enough
                name = f"{data}/{patch}/{network}"
                yield classifier("networks", name, budget, network, f"data.name={data}", *words)


def language(budget: Budget) -> Iterator[Job]:
    """Next byte of a book: the networks that have a causal form, and a standard causal transformer."""
    for network in TEXT_NETWORKS:
        yield Job("language", network, budget.words("text", network), network, cost=1.2 * COSTS.get(network, 1.5))


def recall(budget: Budget) -> Iterator[Job]:
    """A generated task that no network solves token by token."""
    for network in IMAGE_NETWORKS:
        yield Job("recall", network, budget.words("recall", network), network, cost=0.3 * COSTS.get(network, 2.0))


def depth(budget: Budget) -> Iterator[Job]:
    """Accuracy against the number of layers, each with the parameters of the CRATE as deep."""
    for layers in budget.depths:
        for network in ("crate", "crate_descent"):
            yield classifier("depth", f"{network}/{layers}", budget, network, f"model.depth={layers}")


def steps(budget: Budget) -> Iterator[Job]:
    """Accuracy against the number of inner steps with the same bases, or with the same dictionary."""
    for half in ("steps", "codes"):
        for count in budget.steps:
            network = "crate_descent" if count == 1 else f"descent_{count}_{half}"
            yield classifier("steps", f"{half}/{count}", budget, network)


def attempts(budget: Budget) -> Iterator[Job]:
    """What was tried to make the descending network better, on held-out training images."""
    for network in ("crate", *ATTEMPTS, "vit_parameters"):
        yield classifier("attempts", network, budget, network, *budget.trial["images"], choice=True)


def improved(budget: Budget) -> Iterator[Job]:
    """The best of the attempts, once more on the test set."""
    for patch, words in budget.patches.items():
        for network in ("crate", "crate_descent", budget.improved, "vit_parameters", "no_attention"):
            yield classifier("improved", f"fashion-mnist/{patch}/{network}", budget, network, *words)


def rates(budget: Budget) -> Iterator[Job]:
    """The learning rate of every network, on held-out training samples."""
    for kind, networks in {"images": IMAGE_NETWORKS, "text": TEXT_NETWORKS, "recall": IMAGE_NETWORKS}.items():
        for network in networks:
            for lr in budget.rates[kind]:
                words = (*budget.words(kind, network), *budget.trial[kind], f"optim.lr={lr}")
                name, cost = f"{kind}/{network}/{lr}", COSTS.get(network, 2.0)
                yield Job("rates", name, words, network, choice=True, cost=cost)


def unrolled(budget: Budget) -> Iterator[Job]:
    """Solvers of two objectives as networks that learn, beside the solver run to its end."""
    for problem in ("srr", "mcr2"):
        for layers in (2, 4, 8):
            words = ("data.name=mixture", f"model.depth={layers}")
            yield Job("unrolled", f"{problem}/{layers}", words, f"unrolled_{problem}", cost=0.5)


# --- experiments whose numbers are kept from an earlier state of the code


def variants(budget: Budget) -> Iterator[Job]:
    """Regularized training, and the variants of the attention step."""
    images = budget.earlier.images
    yield Job("variants", "CRATE", images, measure="layers")
    for weight in budget.earlier.weights:
        words = (*images, f"objective.srr_weight={weight}")
        yield Job("variants", f"CRATE, cross-entropy − {weight} SRR", words, measure="layers", cost=1.5)
    for name, block in budget.earlier.blocks.items():
        yield Job("variants", name, (*images, f"model.block={block}"), measure="layers")


def ista(budget: Budget) -> Iterator[Job]:
    """Step and sparsity weight of the ISTA block, one changed at a time."""
    for step, lam in ((0.1, 0.1), (0.02, 0.1), (0.5, 0.1), (0.1, 0.02), (0.1, 0.5)):
        changed = () if step == lam == 0.1 else (f"model.step={step}", f"model.lam={lam}")
        yield Job("ista", f"{step}/{lam}", (*budget.earlier.images, *changed), measure="layers")


def masked(budget: Budget) -> Iterator[Job]:
    """Masked autoencoding and what a linear probe reads from its features, beside the probe of an untrained encoder."""
    yield Job("masked", "CrateMAE", budget.earlier.masked, measure="probe", cost=2.0)


def labels(budget: Budget) -> Iterator[Job]:
    """MCR² against cross-entropy when training labels are wrong: many images seen seldom, few seen often."""
    for images, recipe in budget.earlier.corrupted.items():
        for fraction in recipe.fractions:
            for objective, words in (("cross_entropy", recipe.cross_entropy), ("mcr2", recipe.mcr2)):
                found = (*words, f"objective.name={objective}", f"data.corrupt_labels={fraction}")
                yield Job("labels", f"{images}/{fraction}/{objective}", found, "crate_features", "subspaces")


EXPERIMENTS = {
    f.__name__: f
    for f in (
        networks,
        attempts,
        improved,
        recall,
        language,
        depth,
        steps,
        unrolled,
        rates,
        variants,
        ista,
        masked,
        labels,
    )
}
EARLIER = ("variants", "ista", "masked", "labels")
CHOICES = ("rates", "attempts")
REPORTED = [name for name in EXPERIMENTS if name not in (*EARLIER, *CHOICES)]
TRIAL_SEED = 99
PROBE_SAMPLES = 10_000


def jobs(names: Iterable[str], budget: Budget, *, seeds: int, quick: bool = False) -> list[Job]:
    """Every run of these experiments, those that tables share once for each table."""
    of = {name: [TRIAL_SEED] if name in CHOICES else range(seeds) for name in names}
    found = [replace(job, seed=seed) for name in of for job in EXPERIMENTS[name](budget) for seed in of[name]]
    return [job.quick for job in found] if quick else found
