"""Choosing ε, λ, K and p: one stated rule for each, from what is known of the tokens or wanted of the solution.

ε comes from the noise, known or estimated, or from a target rate; λ from a target sparsity; p from how well the
clusters of two halves agree, K from the coding length (`srr.SubspaceMixture` with candidates).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from srr._array.checks import check_array, check_count, check_positive, check_tokens
from srr._array.namespace import Array, to_numpy
from srr.penalties import Penalty
from srr.problems import Problem
from srr.solvers.driver import S, Solver, minimize
from srr.solvers.proximal import ProximalGradient

P = TypeVar("P", bound=Problem[Penalty])
Matrix = np.ndarray[Any, np.dtype[Any]]
Progress = Callable[[int, int, str], object]
"""Called after every piece of work with how many are done, how many there are, and a line about the last one."""
_NEIGHBORS = 32  # neighbors that a token is explained by, at most
_BISECTIONS = 12  # halvings of log λ, at most
_SPAN = 1e-8  # smallest λ tried, in shares of the largest


def choose_eps(Z: Array, *, noise: float | None = None, rate: float | None = None) -> float:
    r"""Distortion ε of tokens, from a noise level or from a target rate.

    With noise of standard deviation σ in every coordinate, :math:`\varepsilon = \sigma \sqrt{d}`, the length of a
    noise vector: what is coded is known to ε²/d = σ² in every coordinate, and no nat is spent on noise. With a rate,
    ε solves :math:`R(Z) = \text{rate}`; the rate falls strictly with ε. With neither, σ is estimated by
    :func:`estimate_noise`.

    Args:
        Z: tokens of shape (n, d).
        noise: standard deviation σ > 0 of the noise in every coordinate.
        rate: coding rate R(Z) > 0 to reach, in nats.

    Returns:
        ε.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: both noise and rate are given, one is not positive, Z is not a matrix or is zero.

    Source: [MCR2] (1)-(2) for what ε means; reverse water-filling, Cover and Thomas (2006), theorem 10.3.3.

    Example:
        >>> import numpy as np, srr
        >>> Z = np.eye(4)
        >>> srr.fits.choose_eps(Z, noise=0.1), round(srr.fits.choose_eps(Z, rate=2 * np.log(5.0)), 6)
        (0.2, 0.5)
    """
    tokens = _matrix(Z)
    if noise is not None and rate is not None:
        raise ValueError(f"one of noise and rate must be None; got noise={noise} and rate={rate}")
    if rate is not None:
        check_positive(rate, "rate")
        return _eps_of_rate(tokens, rate)
    if noise is not None:
        check_positive(noise, "noise")
    sigma = estimate_noise(tokens) if noise is None else noise
    return float(sigma * math.sqrt(tokens.shape[1]))


def _eps_of_rate(Z: Matrix, rate: float) -> float:
    from scipy.optimize import brentq

    n, d = Z.shape
    energies = np.linalg.svd(Z, compute_uv=False) ** 2
    if energies[0] == 0:
        raise ValueError("Z must not be zero, since its rate is zero for every eps")

    def excess(log_eps: float) -> float:
        return float(0.5 * np.sum(np.log1p(d / n * np.exp(-2 * log_eps) * energies)) - rate)

    rank = int(np.sum(energies > 0))
    top = 0.5 * math.log(d / n * float(energies.sum()) / (2 * rate))  # R ≤ α‖Z‖²/2
    low = top - rate / rank - 1.0
    while excess(low) < 0:
        low -= 1.0 + rate
    return math.exp(float(brentq(excess, low, top + 1e-9, xtol=1e-14)))


def estimate_noise(Z: Array, *, sample: int = 200, seed: int | np.random.Generator = 0) -> float:
    r"""Standard deviation of the noise in every coordinate of tokens near unknown subspaces.

    Tokens of a subspace explain each other, noise they cannot: of a token projected off the q tokens nearest in
    angle, :math:`d - q` noisy coordinates are left. The rule is the smallest, over q < d and q ≤ 32, of

    .. math:: \hat\sigma^2 = \operatorname{median}_i \frac{1}{d - q} \operatorname{dist}\bigl(z_i, \operatorname{span}
              \{z_j : j \in N_q(i)\}\bigr)^2

    It needs more than p tokens in each subspace and p well below d. Nearly full subspaces leave no room for noise to
    show: for p = 8 of 32 dimensions, each shared by 100 tokens, it finds half of it.

    Args:
        Z: tokens of shape (n, d).
        sample: tokens that are projected, drawn at random where there are more.
        seed: of the draw.

    Returns:
        σ ≥ 0; times √d it is the length of a noise vector, the ε of :func:`choose_eps`.

    Raises:
        TypeError: Z is not a real floating array, sample is not an integer.
        ValueError: Z is not a matrix of at least two tokens and two features, NaN or infinity, sample below 1.

    Source: self-expression of [SSC], with as few tokens as do.

    Example:
        >>> import srr
        >>> mix = srr.subspace_mixture(n=600, d=64, K=6, p=5, noise=0.04, seed=0)
        >>> round(srr.fits.estimate_noise(mix.Z), 2)
        0.04
    """
    tokens = _matrix(Z)
    check_count(sample, "sample")
    n, d = tokens.shape
    if n < 2 or d < 2:
        raise ValueError(f"Z must have at least two tokens and two features; got shape {tokens.shape}")
    norms = np.linalg.norm(tokens, axis=1)
    directions = tokens / np.where(norms > 0, norms, 1.0)[:, None]
    most = min(d - 1, n - 1, _NEIGHBORS)
    left = []
    for i in np.random.default_rng(seed).permutation(n)[:sample]:
        cosines = np.abs(directions @ directions[i])
        cosines[i] = -1.0
        axes = np.linalg.qr(tokens[np.argsort(-cosines, kind="stable")[:most]].T)[0]  # (d, q), nearest first
        explained = np.cumsum((tokens[i] @ axes) ** 2)
        left.append(np.maximum(norms[i] ** 2 - explained, 0.0) / (d - np.arange(1, most + 1)))
    return math.sqrt(float(np.min(np.median(left, axis=0))))


def choose_lam(
    problem: P,
    Z0: Array,
    *,
    share: float,
    solver: Solver[P, Array, S] | None = None,
    tol: float = 1e-5,
    max_steps: int = 200,
    progress: Progress | None = None,
) -> float:
    r"""Sparsity weight λ of a problem, from the share of non-zero entries that its solution should have.

    The rule is the smallest λ whose solution has at most that share, found by halving the interval of log λ down to
    one twentieth; every trial is one run of :func:`srr.minimize` from the same tokens. λ is the weight of the
    *summed* norm :math:`\lVert Z \rVert_1`, here as in every penalty: for tokens on the sphere, n times as many
    tokens want a λ n times smaller.

    Args:
        problem: of which λ is chosen; the λ of its penalty is not used.
        Z0: tokens of shape (n, d), or codes, to start every run from.
        share: target in (0, 1). On the sphere 1/d is the least there is, one entry a token.
        solver: backtracking proximal gradient by default.
        tol: distance to optimality of every run.
        max_steps: of every run.
        progress: told after each trial.

    Returns:
        λ; give it to the penalty.

    Raises:
        TypeError: the problem's penalty has no λ.
        ValueError: share is not between 0 and 1, or no λ reaches it.

    Source: [CRATE] (1); the convention of the sum is that of `srr.UnitL1`.

    Example:
        >>> import numpy as np, srr
        >>> problem = srr.SparseCoding(np.asarray([[1.0, 2.0, 3.0, 4.0]]), np.eye(4), srr.L1(1.0))
        >>> 2.0 <= srr.fits.choose_lam(problem, np.zeros((1, 4)), share=0.5) < 2.1
        True
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1; got {share}")
    penalty = getattr(problem, "penalty", None)
    if not hasattr(penalty, "lam"):
        raise TypeError(f"problem must have a penalty with lam, such as UnitL1; got {type(penalty).__name__}")
    descend: Any = ProximalGradient() if solver is None else solver
    largest = float(np.max(np.abs(to_numpy(problem.grad(problem.start(Z0))))))
    trials = [0]

    def enough(lam: float) -> bool:
        trial: Any = replace(problem, penalty=replace(penalty, lam=lam))  # type: ignore[type-var]
        Z = to_numpy(minimize(trial, Z0, descend, tol=tol, max_steps=max_steps).Z)
        D = getattr(problem, "D", None)
        if D is not None and not hasattr(problem, "Z"):  # sparsity is measured in a frame
            Z = Z @ to_numpy(D)
        found = float(np.mean(np.abs(Z) > 1e-9 * np.max(np.abs(Z), initial=1e-300)))
        trials[0] += 1
        if progress is not None:
            progress(trials[0], _BISECTIONS, f"λ = {lam:.3g}: {found:.1%} non-zeros")
        return found <= share

    high = max(largest, 1e-300)
    if not enough(high):
        raise ValueError(f"share={share} is reached by no lam up to {high:.3g}, the largest entry of the gradient")
    low = high * _SPAN
    for _ in range(_BISECTIONS):
        if high <= 1.05 * low:
            break
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def run_all(
    work: Iterable[tuple[str, Callable[[], Any]]], n_jobs: int | None = 1, progress: Progress | None = None
) -> list[Any]:
    """Results of named pieces of work, in their order; in threads where n_jobs is not 1 (-1: one a core)."""
    import os

    work = list(work)
    workers = (os.cpu_count() or 1) if n_jobs == -1 else (n_jobs or 1)
    check_count(workers, "n_jobs")
    results = []
    with ThreadPoolExecutor(workers) as pool:
        running = [(name, pool.submit(job)) for name, job in work] if workers > 1 else []
        for done, (name, job) in enumerate(work, start=1):
            results.append(running[done - 1][1].result() if running else job())
            if progress is not None:
                progress(done, len(work), name)
    return results


def _matrix(Z: Array) -> Matrix:
    check_array(Z, "Z", finite=False)
    check_tokens(Z)
    if Z.ndim != 2:
        raise ValueError(f"Z must have shape (n, d); got {tuple(Z.shape)}")
    return to_numpy(Z).astype(np.float64)
