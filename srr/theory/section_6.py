"""§6 What the algorithms stand on: streams, subspaces, masks, fits, penalties, problems and half-steps."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

from srr.fits.coding_length import coding_length
from srr.fits.mixture import expectation, maximization
from srr.ops.streaming import SecondMoment
from srr.penalties import L1, CenteredSpheres, ClassSpheres, NonnegativeL1, Ridge, RotatedPenalty, UnitL1
from srr.problems import RateReduction, SparseCoding, SparseRateReduction
from srr.solvers.layers import ExactCompression, IstaSparsification, NeumannCompression, ProximalSparsification
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Sample, identity, inequality

# --- Streams


def _stream(rng: np.random.Generator) -> Sample:
    p = draws.partition(rng)
    cut, K = int(rng.integers(1, len(p.Z))), 3
    labels, weights = rng.integers(K, size=len(p.Z)), rng.uniform(0.1, 2.0, len(p.Z))
    return p.but(cut=cut, labels=labels, weights=weights, U=draws.bases(rng, 2, p.Z.shape[1], 1))


@identity("moment-merge", "6.1", source="CRATE (7); MCR2 (8)", inside=_stream, rounding=1e5)
def moment_merge(lab: Lab, p: Sample) -> float:
    r"""Second moments of streams add up, and give every rate.

    $$R(Z_1 \cup Z_2) = \frac{1}{2}\log\det\left(I + \frac{d}{(n_1 + n_2)\varepsilon^2}(Z_1^\top Z_1 + Z_2^\top
    Z_2)\right)$$

    Assumes: Batches of any sizes, merged in any order; with weights, with classes.
    Proof: The rates see the tokens through their second moments and their count, which are sums over tokens.
    """
    first, second = (lab.array(Z) for Z in (p.Z[: p.cut], p.Z[p.cut :]))
    w = [lab.array(x) for x in (p.weights[: p.cut], p.weights[p.cut :])]
    y = [lab.array(x) for x in (p.labels[: p.cut], p.labels[p.cut :])]
    empty = SecondMoment.zeros(p.Z.shape[1], like=first)
    plain = empty.update(first).merge(empty.update(second))
    heavy = empty.update(second, weights=w[1]).merge(empty.update(first, weights=w[0]))
    parted = SecondMoment.zeros(p.Z.shape[1], like=first, classes=3)
    parted = parted.update(first, labels=y[0]).merge(parted.update(second, labels=y[1]))
    one_hot = np.eye(3)[p.labels]
    pairs = (
        (plain.coding_rate(eps=p.eps), truth.rate(p.Z, p.eps)),
        (heavy.coding_rate(eps=p.eps), truth.rate(p.Z, p.eps, p.weights)),
        (plain.subspace_coding_rate(lab.array(p.U), eps=p.eps), truth.subspace_rate(p.Z, p.U, p.eps)),
        (parted.partition_coding_rate(eps=p.eps), truth.partition_rate(p.Z, one_hot, p.eps)),
    )
    return max(truth.error(lab.numpy(got), want) for got, want in pairs)


# --- Subspaces


def _two_planes(rng: np.random.Generator) -> Sample:
    """Two planes of R⁵ at given principal angles, and noiseless tokens of both."""
    frame, angles = draws.orthonormal(rng, 5, 5), np.sort(rng.uniform(0.05, 1.5, 2))
    A = frame[:, :2]
    B = A * np.cos(angles) + frame[:, 2:4] * np.sin(angles)
    codes = rng.standard_normal((2, 6, 2))
    Z = np.vstack([codes[0] @ A.T, codes[1] @ B.T])
    turn = draws.orthonormal(rng, 2, 2)
    return Sample(A=A, B=B @ turn, angles=angles, Z=Z, labels=np.repeat([0, 1], 6), noise=0.0)


@identity(
    "principal-angles",
    "6.2",
    source="Björck and Golub (1973); MCR2, Section 2.3",
    inside=_two_planes,
    outside=lambda rng: _two_planes(rng).but(noise=0.3),
    rounding=1e5,
)
def principal_angles(lab: Lab, p: Sample) -> float:
    r"""Principal bases find the subspaces of noiseless classes, and principal angles how they lie.

    $$B = A\cos\theta + A_\perp\sin\theta \;\Rightarrow\; \theta(A, BQ) = \theta, \qquad Z_k = C_kB_k^\top \Rightarrow
    \hat B_k\hat B_k^\top = B_kB_k^\top$$

    Assumes: Tokens without noise, at least as many as dimensions; any basis Q of the second plane.
    Measured: error of the angles, or of the projectors found from tokens.
    Outside: tokens with noise.
    Proof: AᵀBQ = diag(cos θ) Q, whose singular values are the cosines. The leading right singular vectors of Z_k span
    its row space.
    """
    got = lab.ops.principal_angles(p.A, p.B)
    Z = p.Z + p.noise * np.sin(np.arange(p.Z.size)).reshape(p.Z.shape)
    found = lab.ops.principal_bases(Z, p.labels, rank=2)
    projectors = found @ found.mT
    want = np.stack([p.A @ p.A.T, p.B @ p.B.T])
    cosine = float(np.cos(p.angles[0]))
    overlap = float(lab.ops.coherence(np.stack([p.A, p.B])))
    return max(float(np.max(np.abs(got - p.angles))), truth.error(projectors, want), abs(overlap - cosine) / cosine)


# --- Masks


def _masked(rng: np.random.Generator) -> Sample:
    n, p, K = 5, int(rng.integers(1, 4)), 2
    seen = rng.random(n) < 0.6
    seen[rng.integers(n)] = True
    return Sample(
        V=rng.standard_normal((K, n, p)),
        seen=seen,
        free=rng.random((n, n)) < 0.5,
        temperature=rng.uniform(0.5, 2.0, (K, 1)),
        tau=float(rng.uniform(0.05, 0.4)),
    )


@identity("attention-masks", "6.3", source="CRATE (11); TOST; AOT", inside=_masked, rounding=1e5)
def attention_masks(lab: Lab, p: Sample) -> float:
    r"""Masks hide tokens: alone, with a causal order, under thresholds and in token statistics.

    $$w_{ij} = 0 \;\mathrm{where}\; m_{ij} = 0 \;\mathrm{or}\; j > i, \qquad \mathrm{TSSA}(V; m)_m =
    \mathrm{TSSA}(V_m)$$

    Assumes: Every token sees itself in the square mask; one token at least is seen in the other.
    Proof: Definition, token by token: a mask and a causal order both apply; hidden tokens are as if they were not
    there; a threshold keeps τ where a weight exceeds τ.
    """
    free = p.free | np.eye(len(p.seen), dtype=bool)
    worst = 0.0
    for V in p.V:
        want = truth.attend(V, visible=lambda i, j: bool(free[i, j]) and j <= i)
        worst = max(worst, truth.error(lab.ops.ssa(V, causal=True, mask=free), want))
        kept = np.zeros_like(V)
        for i, query in enumerate(V):
            weights = truth.softmax([query @ key for key in V])
            kept[i] = p.tau * (weights > p.tau) @ V
        worst = max(worst, truth.error(lab.ops.thresholded_ssa(V, threshold=p.tau), kept))
    whole = lab.ops.tssa_heads(p.V, p.temperature, mask=p.seen)
    short = lab.ops.tssa_heads(np.ascontiguousarray(p.V[:, p.seen]), p.temperature)
    return max(worst, truth.error(whole[:, p.seen], short))


# --- Fits


def _mixture(rng: np.random.Generator, shuffle: bool = False) -> Sample:
    U = draws.bases(rng, 2, 4, 2)
    Z = np.vstack([rng.standard_normal((15, 2)) @ U[k].T for k in range(2)]) + 0.3 * rng.standard_normal((30, 4))
    return Sample(Z=Z, Pi=draws.membership(rng, 30, 2), shuffle=shuffle)


@inequality(
    "em-ascends",
    "6.4",
    source="Tipping and Bishop (1999); CRATE, Proposition 1",
    inside=_mixture,
    outside=lambda rng: _mixture(rng, shuffle=True),
    rounding=1e4,
)
def em_ascends(lab: Lab, p: Sample) -> float:
    r"""Expectation and maximization never raise the negative log-likelihood of a mixture of subspaces.

    $$-\log q(Z; \theta^+) \leq -\log q(Z; \theta), \quad q = \frac{1}{n}\sum_i \log \sum_k \pi_k N(z_i; 0, \sigma^2 I +
    s^2 U_kU_k^\top)$$

    Assumes: Memberships that are the posterior of the parameters before.
    Measured: largest rise over three rounds in nats, or error of the value against dense covariances.
    Outside: memberships assigned to other tokens.
    Proof: Jensen: the expected log-likelihood under the posterior is a lower bound that touches at θ.
    """
    Z = lab.array(p.Z)
    theta = maximization(Z, lab.array(p.Pi), 2)
    path, worst = [], 0.0
    for _ in range(4):
        share, value = expectation(Z, theta)
        path.append(float(lab.numpy(value)))
        worst = max(worst, truth.error(path[-1], -_likelihood(p.Z, lab, theta)))
        share = lab.array(lab.numpy(share)[::-1].copy()) if p.shuffle else share
        theta = maximization(Z, share, 2)
    return max(float(np.max(np.diff(path))), worst)


def _likelihood(Z: Any, lab: Lab, theta: Any) -> float:
    """Mean log-density of the mixture from dense covariances."""
    U, weights, signal, noise = (lab.numpy(x) for x in theta[:4])
    logs = []
    for basis, weight in zip(U, weights, strict=True):
        C = float(noise) * np.eye(len(basis)) + float(signal) * basis @ basis.T
        energy = np.sum(Z * np.linalg.solve(C, Z.T).T, axis=1)
        logs.append(np.log(weight) - (truth.logdet(C) + energy + len(basis) * np.log(2 * np.pi)) / 2)
    top = np.max(logs, axis=0)
    return float(np.mean(top + np.log(np.sum(np.exp(logs - top), axis=0))))


@identity("coding-length", "6.5", source="Ma, Derksen, Hong and Wright (2007), (10)-(11)", inside=_stream, rounding=1e5)
def cluster_length(lab: Lab, p: Sample) -> float:
    r"""Nats that code tokens cluster by cluster.

    $$L = \sum_k \frac{n_k + d}{2}\log\det\left(I + \frac{d}{n_k\varepsilon^2}Z_k^\top Z_k\right) +
    n_k\log\frac{n}{n_k}$$

    Assumes: Integer labels, clusters of any size; empty ones cost nothing.
    Proof: Definition, cluster by cluster in 60 digits.
    """
    n, d = p.Z.shape
    want = 0.0
    for k in np.unique(p.labels):
        own = p.Z[p.labels == k]
        size = len(own)
        want += (size + d) / 2 * truth.precise_logdet(own, d / (size * p.eps**2)) + size * np.log(n / size)
    return truth.error(coding_length(lab.array(p.Z), p.labels, eps=p.eps), want)


# --- Penalties, problems, half-steps


def _prox_points(rng: np.random.Generator) -> Sample:
    n, d = int(rng.integers(2, 5)), int(rng.integers(3, 5))
    return Sample(V=2 * rng.standard_normal((n, d)), D=draws.orthonormal(rng, d, d), t=draws.spread(rng, 0.1, 1.0))


@identity("penalty-distance", "6.6", source="first-order optimality; statement 20", inside=_prox_points, rounding=1e5)
def penalty_distance(lab: Lab, p: Sample) -> float:
    r"""A penalty's distance vanishes at its proximal point and nowhere near it.

    $$x = \mathrm{prox}_{tg}(v) \;\Rightarrow\; \mathrm{dist}\left(\frac{x - v}{t}, -\partial g(x)\right) = 0$$

    Assumes: ℓ1, non-negative ℓ1, ℓ1 on unit tokens, in a frame, spheres of classes and centered spheres.
    Measured: distance at the prox, and where a tenth is added to it a missing distance; error of the values.
    Proof: The gradient of ½‖x − v‖²/t at x is (x − v)/t, and a minimizer's gradient lies in −∂g(x). Values are
    definitions.
    """
    V, worst = lab.array(p.V), 0.0
    labels = np.arange(len(p.V)) % 2
    values: dict[Any, Any] = {
        L1(0.3): lambda Z: 0.3 * np.abs(Z).sum(),
        NonnegativeL1(0.3): lambda Z: 0.3 * np.abs(Z).sum(),
        UnitL1(0.3): lambda Z: 0.3 * np.abs(Z).sum(),
        Ridge(0.3): lambda Z: 0.15 * np.sum(Z**2),
    }
    for penalty, value in values.items():
        x = penalty.prox(V, step=p.t)
        worst = max(worst, truth.error(lab.numpy(penalty.value(x)), value(lab.numpy(x))))
    frame = RotatedPenalty(L1(0.3), lab.array(p.D))
    others: list[Any] = [
        *values,
        frame,
        ClassSpheres(lab.array(labels)),
        CenteredSpheres(lab.array(np.full((len(p.V), 1), 2.0))),
    ]
    for penalty in others:
        x = penalty.prox(V, step=p.t)
        gradient = (x - V) / p.t
        size = float(np.max(np.abs(p.V))) / p.t
        there = float(np.max(lab.numpy(penalty.distance(x, gradient)))) / size
        pushed = lab.array(lab.numpy(gradient) + np.linspace(1.0, 2.0, p.V.size).reshape(p.V.shape))
        away = float(np.max(lab.numpy(penalty.distance(x, pushed))))
        worst = max(worst, there, 1.0 if away < 0.01 else 0.0)
    return worst


def _problem(rng: np.random.Generator) -> Sample:
    p = draws.curved_subspaces(rng)
    A, D = np.abs(rng.standard_normal((2, 4))), rng.standard_normal((3, 4))
    return p.but(A=A, X=rng.standard_normal((2, 3)), D=D, labels=np.arange(len(p.Z)) % 2)


@inequality("problem-smoothness", "6.7", source="statements 5 and 6", inside=_problem, bound=1e-5)
def problem_smoothness(lab: Lab, p: Sample) -> float:
    r"""The smoothness that a problem states bounds the curvature of what it minimizes.

    $$\lambda_{\max}\nabla^2 f(Z) \leq L(Z), \quad f = R^c - R, \; -\Delta R, \; \frac{1}{2}\Vert X - AD^\top\Vert^2$$

    Assumes: The three problems at random points and near zero; sparse coding reaches it.
    Measured: excess of the curvature over L, or slack of sparse coding, relative; error of the problems' values.
    Proof: (5), (6), and DᵀD for sparse coding.
    """
    srr = SparseRateReduction(lab.array(p.U), eps=p.eps)
    coding = SparseCoding(lab.array(p.X), lab.array(p.D), NonnegativeL1(0.1))
    parts = RateReduction(lab.array(p.labels), p.eps, Ridge(0.0))
    one_hot = np.eye(2)[p.labels]

    def reduction(Z: Any) -> Any:
        return truth.partition_rate(Z, one_hot, p.eps) - truth.rate(Z, p.eps)

    worst = 0.0
    for Z in (p.Z, 1e-3 * p.Z):
        pairs: tuple[tuple[Any, Any], ...] = (
            (srr, lambda X: -truth.sparse_reduction(X, p.U, p.eps)),
            (parts, reduction),
        )
        for problem, f in pairs:
            limit = float(lab.numpy(problem.smoothness(lab.array(Z))))
            top = float(np.linalg.eigvalsh(truth.hessian(f, Z))[-1])
            value = float(lab.numpy(problem.value_and_grad(lab.array(Z))[0]))
            off = abs(value - float(f(Z))) / max(1.0, truth.rate(Z, p.eps))
            worst = max(worst, top / limit - 1, off if off > 1e3 * lab.eps else 0.0)
    exact = float(np.linalg.norm(p.D, 2) ** 2)
    return max(worst, abs(float(lab.numpy(coding.smoothness(lab.array(p.A)))) / exact - 1))


@identity(
    "half-steps", "6.8", source="CRATE (10), (17); the half-steps of the solvers", inside=draws.subspaces, rounding=1e6
)
def half_steps(lab: Lab, p: Sample) -> float:
    r"""The alternating half-steps are the steps of the papers.

    $$Z - \kappa\nabla R^c, \quad Z - \kappa\beta\sum_k V_k(I - \beta V_k^\top V_k)U_k^\top, \quad
    \mathrm{ReLU}(Z - \eta(ZD^\top - Z)D - \eta\lambda), \quad \mathrm{soft}(Z + \eta\nabla R, \eta\lambda)$$

    Assumes: κ = η = 0.1; λ = 0.2; the dictionary the identity turned by a rotation.
    Measured: error relative to the tokens.
    Proof: Definitions; gradients by the complex step.
    """
    d, beta = p.Z.shape[1], truth.beta(p.Z, p.U, p.eps)
    problem = SparseRateReduction(lab.array(p.U), eps=p.eps, penalty=L1(0.2))
    pull = truth.gradient(lambda Z: truth.subspace_rate(Z, p.U, p.eps), p.Z)
    push = truth.gradient(lambda Z: truth.rate(Z, p.eps), p.Z)
    V = p.Z @ p.U
    series = sum(beta * (W - beta * W @ W.T @ W) @ B.T for W, B in zip(V, p.U, strict=True))
    D = linalg.expm(0.3 * (np.eye(d, k=1) - np.eye(d, k=-1)))
    lifted = p.Z + 0.1 * push
    pairs = (
        (ExactCompression(0.1), p.Z - 0.1 * pull),
        (NeumannCompression(step=0.1), p.Z - 0.1 * series),
        (IstaSparsification(lab.array(D), lam=0.2, step=0.1), np.maximum(p.Z - 0.1 * ((p.Z @ D.T - p.Z) @ D + 0.2), 0)),
        (ProximalSparsification(0.1), np.sign(lifted) * np.maximum(np.abs(lifted) - 0.02, 0)),
    )
    Z = lab.array(p.Z)
    return max(truth.error(lab.numpy(half(problem, Z)), want, [p.Z, want]) for half, want in pairs)
