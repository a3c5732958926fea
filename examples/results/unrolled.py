"""Two solvers as networks that learn their steps on mixtures, beside the same solver run until it stops."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srr
from srr.nn import Unrolled

SETS, HELD, TOKENS, DIM, CLASSES, RANK = 48, 16, 96, 16, 4, 4
EPOCHS, BATCH = 30, 8


def mixtures(seed: int) -> tuple[Any, Tensor]:
    """Noisy tokens of the same subspaces and classes, in (sets, n, d), and the mixture that they are drawn like."""
    like = srr.subspace_mixture(n=TOKENS, d=DIM, K=CLASSES, p=RANK, noise=0.3, coherence=None, seed=seed)
    rng = np.random.default_rng(seed + 1000)
    U, y = np.asarray(like.U), np.asarray(like.labels)
    drawn = np.einsum("ndp,snp->snd", U[y], rng.standard_normal((SETS + HELD, TOKENS, RANK)))
    drawn += 0.3 * rng.standard_normal(drawn.shape)
    return like, torch.asarray(drawn / np.linalg.norm(drawn, axis=-1, keepdims=True))


def unroll(kind: str, depth: int, seed: int) -> dict[str, Any]:
    """Train so many layers on the objective at their end; shares of the solver's whole decrease, on held-out sets."""
    like, Z = mixtures(seed)
    torch.manual_seed(seed)
    if kind == "srr":
        problem: Any = srr.SparseRateReduction(U=torch.asarray(like.U), eps=0.5, penalty=srr.UnitL1(0.005))
    else:
        problem = srr.RateReduction(torch.asarray(like.labels), eps=0.5, penalty=srr.UnitL1())
    train, held = Z[:SETS], Z[SETS:]
    solver = srr.ProximalGradient(srr.FixedStep())
    network = Unrolled(problem, solver, depth, learn=("solver.rule.step",))
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    start = time.process_time()
    for _ in range(EPOCHS):
        for rows in torch.randperm(SETS).view(-1, BATCH):
            loss = problem.objective(network(train[rows])).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    seconds = time.process_time() - start
    with torch.no_grad():
        plain = Unrolled(problem, solver, depth)(held)
        learned = network(held)
    solved = srr.minimize(problem, held, srr.ProximalGradient(), tol=1e-4, max_steps=2000)
    before, end = problem.objective(problem.start(held)), problem.objective(solved.Z)
    shares = {
        name: float(((before - problem.objective(found)) / (before - end)).mean())
        for name, found in {"share_plain": plain, "share_learned": learned}.items()
    }
    limit = float(torch.as_tensor(problem.smoothness(held[0])))
    same = steps_to_match(problem, held, solver, float(problem.objective(learned).mean()))
    steps = [float(raw.detach().exp()) for raw in network.parameters()]
    return {
        **shares,
        "parameters": depth,
        "processor_seconds": seconds,
        "plain_steps": same,
        "longest": max(steps) * limit,
        "solver_steps": float(np.mean(solved.steps)),
        "solved": float(np.mean([status is srr.Status.CONVERGED for status in np.ravel(solved.status)])),
    }


def steps_to_match(problem: Any, Z: Tensor, solver: Any, target: float, most: int = 5000) -> int:
    """How many steps of 1/L reach this mean objective."""
    Z = problem.start(Z)
    for step in range(1, most + 1):
        Z, _ = solver.layer(problem, Z)
        if float(problem.objective(Z).mean()) <= target:
            return step
    return most
