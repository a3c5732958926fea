"""§5 ReduNet: operators, increment, and their circulant form."""

from __future__ import annotations

from typing import Any

import numpy as np

from srr import ops
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Problem, statement


def _redunet(rng: np.random.Generator) -> Problem:
    n, d, K = 9, int(rng.integers(2, 5)), 3
    labels = np.concatenate([np.arange(K), rng.integers(K, size=n - K)])
    return Problem(
        Z=rng.standard_normal((n, d)),
        labels=labels,
        eps=draws.spread(rng, 0.3, 2.0),
        sharpness=float(rng.uniform(0.5, 3)),
    )


@statement(
    label="redu-operators",
    item="27",
    section=5,
    title="ReduNet's operators, and its increment as a gradient",
    formula=r"E = \alpha(I + \alpha Z^\top Z)^{-1}, \; C_k = \alpha_k(I + \alpha_k Z_k^\top Z_k)^{-1}, \quad "
    r"ZE - \sum_k \gamma_k \Pi_k Z C_k = \nabla_Z \Delta R(Z \mid \Pi)",
    source="REDU (12)-(15)",
    kind="identity",
    assumes="Labels of the tokens that made the operators.",
    inside=_redunet,
)
def redunet_operators(lab: Lab, p: Problem) -> float:
    """γ_kα_k = α: statement (3) without its factors. Operators against explicit inverses, increment against the
    complex step on ΔR.
    """
    Z, labels = lab.array(p.Z), lab.array(p.labels)
    made = ops.redunet_operators(Z, labels, eps=p.eps)
    E, C, share = _dense_operators(p.Z, p.labels, p.eps)
    one_hot = np.eye(3)[p.labels]
    rise = truth.gradient(lambda X: truth.rate(X, p.eps) - truth.partition_rate(X, one_hot, p.eps), p.Z)
    moved = lab.numpy(ops.redunet_increment(Z, made, labels))
    return max(
        truth.error(lab.numpy(made.E), E),
        truth.error(lab.numpy(made.C), C),
        truth.error(lab.numpy(made.proportions), share),
        float(np.max(np.abs(moved - rise)) / np.max(np.abs(p.Z @ E))),
    )


def _dense_operators(Z: Any, labels: Any, eps: float) -> tuple[Any, Any, Any]:
    """E, C_k and γ_k with explicit inverses."""
    n, d = Z.shape
    counts = np.bincount(labels, minlength=3)
    scales = d / (counts * eps**2)
    C = [a * np.linalg.inv(np.eye(d) + a * Z[labels == k].T @ Z[labels == k]) for k, a in enumerate(scales)]
    alpha = d / (n * eps**2)
    return alpha * np.linalg.inv(np.eye(d) + alpha * Z.T @ Z), np.stack(C), counts / n


@statement(
    label="redu-layer",
    item="27b",
    section=5,
    title="Without labels the layer estimates its membership",
    formula=r"z^+ \propto z + \eta\left(Ez - \sum_k \gamma_k \hat\pi_k C_k z\right), \quad "
    r"\hat\pi = \mathrm{softmax}_k(-\lambda\Vert C_k z\Vert)",
    source="REDU (18)-(22)",
    kind="identity",
    assumes="Operators from other tokens with labels.",
    inside=_redunet,
    rounding=1e5,
)
def redunet_layer(lab: Lab, p: Problem) -> float:
    """Definition, token by token: C_kz is small where class k explains z, hence the minus sign."""
    made = ops.redunet_operators(lab.array(p.Z), lab.array(p.labels), eps=p.eps)
    E, C, share = _dense_operators(p.Z, p.labels, p.eps)
    fresh = np.roll(p.Z, 1, axis=1) + 0.5
    want = []
    for z in fresh:
        pi = truth.softmax([-p.sharpness * np.linalg.norm(operator @ z) for operator in C])
        want.append(E @ z - sum(g * w * operator @ z for g, w, operator in zip(share, pi, C, strict=True)))
    got = lab.numpy(ops.redunet_increment(lab.array(fresh), made, sharpness=p.sharpness))
    return truth.error(got, np.array(want))


def _signals(rng: np.random.Generator) -> Problem:
    labels = np.concatenate([np.arange(3), rng.integers(3, size=3)])
    return Problem(
        Z=rng.standard_normal((6, 2, int(rng.integers(3, 6)))), labels=labels, eps=draws.spread(rng, 0.3, 2.0)
    )


@statement(
    label="redu-circulant",
    item="27c",
    section=5,
    title="Shift invariance makes the operators circulant",
    formula=r"\mathcal{F}\left(E z\right)(\omega) = \hat E(\omega)\,\hat z(\omega), \quad "
    r"\hat E(\omega) \in \mathbb{C}^{C \times C}",
    source="REDU (35)-(39)",
    kind="identity",
    assumes="Every circular shift of a signal belongs to its class.",
    inside=_signals,
)
def redunet_circulant(lab: Lab, p: Problem) -> float:
    """The Gram matrix of all shifts is block-circulant, so the Fourier transform splits it into one C×C block per
    frequency. The truth stacks every shift of every signal and inverts the dense CT×CT matrices.
    """
    n, C, T = p.Z.shape
    shifts = np.concatenate([np.roll(p.Z, s, axis=-1).reshape(n, C * T) for s in range(T)])
    E, compress, share = _dense_operators(shifts, np.tile(p.labels, T), p.eps)
    flat = p.Z.reshape(n, C * T)
    want = np.stack([z @ E - share[k] * z @ compress[k] for z, k in zip(flat, p.labels, strict=True)])
    Z, labels = lab.array(p.Z), lab.array(p.labels)
    made = ops.redunet_operators(Z, labels, eps=p.eps, shift_axes=1)
    got = lab.numpy(ops.redunet_increment(Z, made, labels, shift_axes=1)).reshape(n, C * T)
    return float(np.max(np.abs(got - want)) / np.max(np.abs(flat @ E)))
