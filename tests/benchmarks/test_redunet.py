"""Building a ReduNet against a straightforward form: 10 × 1,000 tokens of d = 100, 50 layers.

Run this file as a program for the whole table; as a test it checks that the forms agree and times one layer of each.
"""

from __future__ import annotations

import numpy as np
import pytest

import srr
from srr.ops.redunet import to_sphere
from tests.benchmarks.timing import best_ratio, interleaved, median_ratio

K, PER_CLASS, DIM, RANK, LAYERS = 10, 1000, 100, 10, 50
EPS, STEP, SHARPNESS = 0.5, 0.5, 100.0


def tokens(dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Tokens near one subspace per class, in random order, on the sphere."""
    mix = srr.subspace_mixture(n=K * PER_CLASS, d=DIM, K=K, p=RANK, noise=0.1, rotated=True, seed=0)
    return to_sphere(mix.Z).astype(dtype), mix.labels


def straightforward_operators(Z: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E and C_k by explicit inverses and one-hot products with all tokens."""
    n, d = Z.shape
    eye, alpha = np.eye(d, dtype=Z.dtype), d / (n * EPS**2)
    E = alpha * np.linalg.inv(eye + alpha * Z.T @ Z)
    C = []
    for k in range(K):
        w = (labels == k).astype(Z.dtype)
        scale = d / (float(w.sum()) * EPS**2)
        C.append(scale * np.linalg.inv(eye + scale * Z.T @ (w[:, None] * Z)))
    return E, np.stack(C)


def straightforward_layer(Z: np.ndarray, labels: np.ndarray, *, estimated: bool) -> np.ndarray:
    """One layer from the printed equations: every token under every class's operator."""
    E, C = straightforward_operators(Z, labels)
    responses = np.stack([Z @ Ck for Ck in C])
    if estimated:
        scores = -SHARPNESS * np.linalg.norm(responses, axis=-1)
        pi = np.exp(scores - scores.max(axis=0))
        pi /= pi.sum(axis=0)
    else:
        pi = (labels == np.arange(K)[:, None]).astype(Z.dtype)
    Z = Z + Z.dtype.type(STEP) * (Z @ E - (pi[..., None] * responses).sum(axis=0) / K)
    return Z / np.linalg.norm(Z, axis=1, keepdims=True)


def layer(Z: np.ndarray, labels: np.ndarray, *, estimated: bool, core_dtype: type | None = None) -> np.ndarray:
    """One layer of the package."""
    made = srr.ops.redunet_operators(Z, labels, eps=EPS, core_dtype=core_dtype)
    return to_sphere(Z + STEP * srr.ops.redunet_increment(Z, made, None if estimated else labels, sharpness=SHARPNESS))


@pytest.mark.parametrize("estimated", [False, True], ids=["labels", "estimated"])
def test_the_forms_agree(estimated: bool) -> None:
    Z, labels = tokens()
    np.testing.assert_allclose(
        layer(Z, labels, estimated=estimated), straightforward_layer(Z, labels, estimated=estimated), atol=1e-12
    )


@pytest.mark.parametrize("form", [layer, straightforward_layer], ids=["srr", "straightforward"])
def test_one_layer(benchmark, form) -> None:
    Z, labels = tokens()
    benchmark.pedantic(form, args=(Z, labels), kwargs={"estimated": False}, rounds=3, warmup_rounds=1)


def table(rounds: int = 11) -> None:
    """Seconds of 50 layers and ratios, for labeled and estimated memberships in both precisions."""
    for dtype in (np.float64, np.float32):
        Z, labels = tokens(dtype)
        for estimated in (False, True):
            forms = {
                "straightforward": lambda e=estimated, Z=Z, y=labels: straightforward_layer(Z, y, estimated=e),
                "srr": lambda e=estimated, Z=Z, y=labels: layer(Z, y, estimated=e, core_dtype=Z.dtype),
            }
            seconds = interleaved(forms, rounds=rounds)
            times = ", ".join(f"{name} {LAYERS * min(s):.2f} s" for name, s in seconds.items())
            ratios = median_ratio(seconds, "straightforward", "srr"), best_ratio(seconds, "straightforward", "srr")
            kind = "estimated" if estimated else "labels"
            print(f"{np.dtype(dtype).name}, {kind}: {times}; ratio median {ratios[0]:.2f}, best {ratios[1]:.2f}")


if __name__ == "__main__":
    table()
