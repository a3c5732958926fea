"""The rates as the equations print them: eigenvalues of d×d matrices, one-hot memberships, autograd.

These are the forms the fast ones are measured against. They share no code with ``srr``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def logdet_by_eigenvalues(G: Tensor) -> Tensor:
    """logdet(I + G) of positive semidefinite matrices as Σ log(1 + λ_i)."""
    return torch.log1p(torch.linalg.eigvalsh(G).clamp(min=0)).sum(-1)


def coding_rate(Z: Tensor, eps: float) -> Tensor:
    """R(Z) = ½ logdet(I_d + d/(nε²) ZᵀZ)."""
    n, d = Z.shape
    return 0.5 * logdet_by_eigenvalues(d / (n * eps**2) * (Z.T @ Z))


def subspace_coding_rate(Z: Tensor, U: Tensor, eps: float) -> Tensor:
    """R^c(Z; U) = ½ Σ_k logdet(I_p + p/(nε²) U_kᵀZᵀZ U_k)."""
    V = torch.einsum("nd,kdp->knp", Z, U)
    beta = U.shape[-1] / (Z.shape[0] * eps**2)
    return 0.5 * logdet_by_eigenvalues(beta * torch.einsum("kni,knj->kij", V, V)).sum()


def partition_coding_rate(Z: Tensor, Pi: Tensor, eps: float) -> Tensor:
    """R^c(Z | Π) with Π of shape (n, K): one d×d matrix per class from the one-hot product."""
    n, d = Z.shape
    count = Pi.sum(0)
    grams = torch.einsum("ni,nj,nk->kij", Z, Z, Pi)
    logdets = logdet_by_eigenvalues((d / (count * eps**2))[:, None, None] * grams)
    return (count / (2 * n) * logdets).sum()


def rate_reduction(Z: Tensor, Pi: Tensor, eps: float) -> Tensor:
    """ΔR = R − R^c."""
    return coding_rate(Z, eps) - partition_coding_rate(Z, Pi, eps)


def with_gradient(rate: object, Z: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    """Value and gradient with respect to the tokens, by autograd."""
    tokens = Z.detach().requires_grad_()
    value = rate(tokens, *rest)  # type: ignore[operator]
    return value.detach(), torch.autograd.grad(value, tokens)[0]
