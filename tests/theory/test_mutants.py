"""The ledger must notice every broken operator."""

import pytest

from srr.theory import ledger, verify
from tests.theory import mutants

ENTRIES = sorted(ledger(), key=lambda entry: entry.samples <= 3)  # costly statements, and solver runs, last


# The statements that few mutants reach, each with one that must bring it down.
ONLY = {
    "reduction-gradient": "sign-of-reduction-gradient",
    "crate-10-falls": "softmax-not-normalized",
    "crate-18-compresses": "sign-of-attention",
    "indepth-decompresses": "sign-of-attention",
    "ista-warm-start": "codes-with-signs",
    "kaiming-norm": "codes-uphill",
    "prox-sphere": "sphere-threshold-halved",
    "srr-rotated-frame": "frame-ignored",
    "srr-leaves-subspaces": "outside-is-free",
    "rate-outside": "half-counted-twice",
    "mcr2-optimum": "problem-uphill",
    "erratum-parameters": "one-layer-fewer",
    "rate-gradient-norm": "gradient-doubled",
    "rate-orthogonal-blocks": "half-counted-twice",
    "rate-jensen": "half-counted-twice",
    "rate-above-distortion": "half-counted-twice",
    "rate-low-rank-gap": "half-counted-twice",
    "causal-truncation": "causal-forgotten",
    "ista-from-feasible": "codes-uphill",
    "descent-projection": "compression-uphill",
    "descent-natural-scale": "overlap-of-heads-ignored",
    "descent-trace-norm": "overlap-of-heads-ignored",
    "softmax-energy-gradient": "sign-of-attention",
    "softmax-energy-descent": "sign-of-attention",
    "rate-covering": "half-dropped-from-rate",
    "rate-reached": "code-too-coarse",
    "tweedie-schedule": "membership-over-tokens",
    "entropy-diffusion": "half-counted-twice",
    "structured-decoder": "compression-uphill",
    "vmcr2-thin": "half-dropped-from-subspace-rate",
    "cbsa-special": "bare-contraction",
    "ctrl-equilibrium": "compression-added",
    "erratum-book-half": "half-counted-twice",
    "erratum-book-neumann": "sign-of-neumann-term",
    "erratum-book-ranks": "compression-added",
    "erratum-book-entropy": "labels-for-free",
    "erratum-book-values": "causal-mask-transposed",
    "moment-merge": "merge-forgets",
    "principal-angles": "angles-halved",
    "attention-masks": "mask-or-causal",
    "em-ascends": "likelihood-off",
    "coding-length": "labels-for-free",
    "penalty-distance": "distance-never-zero",
    "problem-smoothness": "smoothness-a-ninth",
    "half-steps": "half-step-uphill",
}


def caught_by() -> str | None:
    """Label of the first statement that fails."""
    cheap = [entry for entry in ENTRIES if entry.samples > 3]
    for entries, samples in ((cheap, 2), (ENTRIES[len(cheap) :], 1)):
        for result in verify(entries, samples=samples):
            if not result.passed:
                return result.statement.label
    return None


def test_the_unbroken_operators_pass():
    assert caught_by() is None


@pytest.mark.parametrize(
    "mutant", [mutant for mutant in mutants.MUTANTS if mutant.name not in ONLY.values()], ids=lambda mutant: mutant.name
)
def test_mutant_is_caught(monkeypatch, mutant):
    mutants.install(monkeypatch, mutant)
    assert caught_by() is not None, f"{mutant.name} in {mutant.target} survives"


def test_there_is_a_mutant_for_every_operator_family():
    assert len(mutants.MUTANTS) >= 15
    assert len({mutant.target for mutant in mutants.MUTANTS}) >= 30


@pytest.mark.parametrize(("label", "name"), ONLY.items(), ids=list(ONLY))
def test_statement_can_fail(monkeypatch, label, name):
    mutants.install(monkeypatch, next(mutant for mutant in mutants.MUTANTS if mutant.name == name))
    (entry,) = (entry for entry in ENTRIES if entry.label == label)
    assert not next(verify([entry], samples=3)).passed
