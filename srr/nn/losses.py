"""The losses of the family, in their only place: the same value and gradient on one process and on many.

Where ``torch.distributed`` is initialized, a loss of a batch is that of the batches of all ranks together, however
unevenly they are split: sums and second moments are added up over the ranks by a sum that gradients flow through.
Every rank then holds the loss of the whole, and DDP and FSDP, which *average* gradients over the ranks, arrive at its
exact gradient. Every rank has to call the loss, with tensors that ask for a gradient on all ranks or on none; a group
of one process gives the loss of that process alone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch._compile import _disable_dynamo
from torch.nn import functional

from srr import ops
from srr._array.checks import check_bases, check_count, check_nonnegative, check_positive, check_tokens
from srr._array.namespace import Array, core_cast, namespace
from srr.nn.probe import chosen_blocks, layer_states

__all__ = [
    "cross_entropy",
    "reconstruction_loss",
    "mcr2_loss",
    "srr_regularizer",
    "total_coding_rate_regularizer",
    "manifold_loss",
    "views_loss",
    "patch_loss",
    "nmce_loss",
    "ctrl_loss",
    "expansion_weight",
    "rate_gradient_bound",
    "fused_coding_rate",
    "fused_subspace_coding_rate",
    "fused_rate_reduction",
    "sum_over_ranks",
]

Group = dist.ProcessGroup | None
"""Processes whose batches make one batch; None for all of them."""
IGNORE = -100
"""Label of a target that does not count, as in torch."""


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        x = x.clone()
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return sum_over_ranks(gradient.contiguous(), ctx.group), None


def world_size(group: Group = None) -> int:
    """Number of processes of a group; 1 where there is none."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(x: Tensor, group: Group = None) -> Tensor:
    """Sum of a tensor over all processes, differentiable; the tensor itself where there is one process.

    Args:
        x: a tensor of the same shape on every rank.
        group: the processes, all of them by default.

    Returns:
        The sum, on every rank.
    """
    if world_size(group) == 1:
        return x
    add: Callable[[Tensor, Group], Tensor] = _SumOverRanks.apply
    return add(x, group)


def _mean_over_ranks(values: Tensor, count: Tensor | int, group: Group) -> Tensor:
    """Sum of values over all ranks, divided by the count of all ranks."""
    total = values.sum()
    if world_size(group) == 1:
        return total / count
    both = torch.stack((total, torch.as_tensor(count, dtype=total.dtype, device=total.device)))
    everything, number = sum_over_ranks(both, group).unbind()
    return everything / number


def cross_entropy(scores: Tensor, targets: Tensor, *, label_smoothing: float = 0.0, group: Group = None) -> Tensor:
    r"""Cross-entropy of class scores, in nats, mean over the targets of all ranks.

    With the scores of a causal model and the symbols that follow, this is the loss of the next token.

    Args:
        scores: (..., K), unnormalized.
        targets: class numbers (...), -100 where there is none; or class probabilities (..., K), as mixed samples have.
        label_smoothing: share of the target that is spread over all classes.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number; NaN when there is no target.

    Raises:
        ValueError: targets that are neither numbers nor probabilities for the scores.

    Example:
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([1, -100])).exp()
        tensor(4.0000)
    """
    mixed = targets.is_floating_point()
    if targets.shape != (scores.shape if mixed else scores.shape[:-1]):
        raise ValueError(
            f"targets must be numbers {tuple(scores.shape[:-1])} or probabilities {tuple(scores.shape)}; "
            f"got {targets.dtype} {tuple(targets.shape)}"
        )
    rows = scores.flatten(0, -2)  # (..., K) -> (N, K)
    wanted = targets.flatten(0, -2) if mixed else targets.flatten()  # (N, K) or (N,)
    options: dict[str, Any] = {"label_smoothing": label_smoothing, "ignore_index": IGNORE, "reduction": "sum"}
    count = len(rows) if mixed else (wanted != IGNORE).sum()
    return _mean_over_ranks(functional.cross_entropy(rows, wanted, **options), count, group)


def reconstruction_loss(predicted: Tensor, targets: Tensor, hidden: Tensor, *, group: Group = None) -> Tensor:
    r"""Mean squared error of a patch, mean over the hidden patches of all ranks.

    Args:
        predicted: (B, n, patch_dim).
        targets: (B, n, patch_dim).
        hidden: boolean (B, n).
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number; NaN when no patch is hidden.

    Source: [MAE], training objective.

    Example:
        >>> reconstruction_loss(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), torch.tensor([[True, False]]))
        tensor(1.)
    """
    error = (predicted - targets).square().mean(dim=-1)  # (B, n, patch_dim) -> (B, n)
    return _mean_over_ranks(error * hidden, hidden.sum(), group)


def standardize_patches(patches: Tensor) -> Tensor:
    """Patches (..., patch_dim) with zero mean and unit variance each, the other targets of [MAE]."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


def mcr2_loss(
    Z: Tensor,
    Pi: Tensor,
    *,
    eps: float = 0.5,
    gamma1: float = 1.0,
    gamma2: float = 1.0,
    normalize: bool = True,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Maximal coding rate reduction as a loss, in nats; :math:`-\Delta R(Z \mid \Pi)` where both γ are 1.

    .. math:: R^c(Z \mid \Pi; \varepsilon) - \gamma_2\, R(Z; \varepsilon / \sqrt{\gamma_1}), \qquad
        R(Z; \varepsilon / \sqrt{\gamma_1}) = \tfrac12 \log\det\bigl(I + \gamma_1 \alpha Z^\top Z\bigr)

    Args:
        Z: features (..., n, d), one row a sample; the n of all ranks are one set.
        Pi: integer labels (..., n) or membership weights (..., n, K).
        eps: distortion ε > 0.
        gamma1: γ₁ > 0, the factor inside the log-determinant of the expansion (``gam1`` of the released code).
        gamma2: γ₂ ≥ 0, the weight of the expansion (``gam2`` of the released code). With many small classes
            γ₁ = 1/γ₂ near the number of classes that a batch has; both are 1 in the supervised form.
        normalize: put every feature on the unit sphere first; without a constraint on the scale the loss has no
            minimum.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        Mean over the batch axes, a scalar; zero for no sample at all.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: as :func:`srr.nn.fused_rate_reduction`; γ₁ not positive, γ₂ negative.

    Source: [MCR2] (11), and its self-supervised form for the γ.

    Example:
        >>> round(float(mcr2_loss(3.0 * torch.eye(2), torch.tensor([0, 1]))), 4)
        -0.5108
    """
    check_positive(eps, "eps")
    check_positive(gamma1, "gamma1")
    check_nonnegative(gamma2, "gamma2")
    _refuse_gradient(Pi, "Pi")
    Z = unit_rows(Z) if normalize else at_least_single(Z)
    wide = eps / math.sqrt(gamma1)

    def of_moment(moment: ops.SecondMoment) -> Array:
        return moment.partition_coding_rate(eps=eps) - gamma2 * moment.coding_rate(eps=wide)

    if world_size(group) > 1:
        return _moment_of_all(Z, Pi, core_dtype, group, of_moment)
    if not Z.numel():
        return Z.sum()
    gain = fused_rate_reduction(Z, Pi, eps=eps, core_dtype=core_dtype).mean()
    if gamma1 == gamma2 == 1:
        return -gain
    rate = partial(fused_coding_rate, Z, core_dtype=core_dtype)
    return rate(eps=eps).mean() - gain - gamma2 * rate(eps=wide).mean()  # R − ΔR = R^c


def manifold_loss(
    views: Tensor,
    *,
    eps: float = 0.5,
    gamma1: float = 1.0,
    gamma2: float = 1.0,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""MCR² without labels: the views of one image are a class of their own, in nats.

    .. math:: \frac1n \sum_i R(Z_i; \varepsilon) - \gamma_2\, R(Z; \varepsilon / \sqrt{\gamma_1})

    :math:`Z_i`, (V, d), holds the unit features of image i and Z, (V n, d), those of all: :func:`srr.nn.mcr2_loss`
    with the number of the image as label, factored on the side of V.

    Args:
        views: features (V, n, d) of V ≥ 2 views of n images; the n of all ranks are one batch.
        eps: distortion ε > 0.
        gamma1: γ₁ > 0, the factor inside the log-determinant of the expansion.
        gamma2: γ₂ ≥ 0, the weight of the expansion.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number; zero for no sample at all.

    Raises:
        TypeError: views are no floating tensor.
        ValueError: fewer than two views, NaN or infinity, eps or γ₁ not positive, γ₂ negative.

    Source: [MCR2], its self-supervised form (section 3, "MCR²-CTRL").

    Example:
        >>> apart, together = torch.eye(4).expand(3, 4, 4), torch.ones(3, 4, 4)
        >>> bool(manifold_loss(apart) < manifold_loss(together))
        True
    """
    _check_views(views)
    check_positive(eps, "eps")
    check_positive(gamma1, "gamma1")
    check_nonnegative(gamma2, "gamma2")
    Z = unit_rows(views)
    if not _count_of_all(Z.shape[1], Z, group):
        return Z.sum()
    inside = fused_coding_rate(Z.transpose(0, 1), eps=eps, core_dtype=core_dtype)  # (V, n, d) -> (n, V, d) -> (n,)
    spread = partial(total_coding_rate_regularizer, normalize=False, core_dtype=core_dtype, group=group)
    return _mean_over_ranks(inside, len(inside), group) + gamma2 * spread(Z.flatten(0, 1), eps=eps / math.sqrt(gamma1))


def total_coding_rate_regularizer(
    Z: Tensor,
    *,
    eps: float = 0.5,
    normalize: bool = True,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Minus the total coding rate of a batch of features, in nats: a term that keeps them from collapsing.

    .. math:: -R(\hat Z),\qquad \hat z_i = z_i / \lVert z_i \rVert

    Args:
        Z: features (..., n, d); leading axes are views or groups, each with a rate of its own, and the n of all ranks
            are one set.
        eps: distortion ε > 0.
        normalize: put every feature on the unit sphere first.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        Mean over the leading axes, a scalar; add it, weighted, to an alignment loss.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: as :func:`srr.nn.fused_coding_rate`.

    Source: [SIMDINO], its expansion term.

    Example:
        >>> collapsed = torch.ones(8, 4)
        >>> bool(total_coding_rate_regularizer(torch.eye(8, 4)) < total_coding_rate_regularizer(collapsed))
        True
    """
    Z = unit_rows(Z) if normalize else at_least_single(Z)
    if world_size(group) > 1:
        return -_moment_of_all(Z, None, core_dtype, group, lambda moment: moment.coding_rate(eps=eps))
    return -fused_coding_rate(Z, eps=eps, core_dtype=core_dtype).mean()


def rate_gradient_bound(n: int, d: int, *, eps: float) -> float:
    r"""Largest Frobenius norm that the gradient of the coding rate has at any tokens (n, d).

    .. math:: \lVert \nabla R(Z) \rVert_F \le \tfrac12 \sqrt{\alpha \min(n, d)},
        \qquad \alpha = \frac{d}{n \varepsilon^2}

    The gradient :math:`\alpha Z (I + \alpha Z^\top Z)^{-1}` has the singular values ασ/(1 + ασ²) ≤ ½√α, equal at
    σ = 1/√α: the bound is attained where all min(n, d) singular values of Z are 1/√α.

    Args:
        n: number of tokens.
        d: their width.
        eps: distortion ε > 0.

    Returns:
        The bound, in nats per unit of Z; zero for no token.

    Raises:
        ValueError: n negative, d or eps not positive.

    Source: own; from [CRATE] (7).

    Example:
        >>> rate_gradient_bound(64, 16, eps=0.5)
        2.0
    """
    check_positive(eps, "eps")
    check_count(n, "n", least=0)
    check_count(d, "d")
    return 0.5 * math.sqrt(ops.rate_scale(n, d, eps=eps) * min(n, d)) if n else 0.0


def expansion_weight(n: int, d: int, *, eps: float) -> float:
    r"""Weight γ under which the rate of a view pulls as hard, at most, as the similarity does at most.

    .. math:: \gamma = \frac{1/\sqrt n}{\max_Z \lVert \nabla R(Z) \rVert_F} = \frac{2 \varepsilon}{\sqrt{d \min(n, d)}}

    On the unit sphere the gradient of the mean over n samples of ½‖z − t‖² has Frobenius norm at most 1/√n. The weight
    is 2ε/d where n ≥ d, and γR at its maximum, unit tokens with equal singular values, is then ε log(1 + 1/ε²)
    whatever the batch and the width.

    Args:
        n: samples of a view on all ranks.
        d: width of a feature.
        eps: distortion ε > 0.

    Returns:
        The weight; zero for no sample.

    Raises:
        ValueError: n negative, d or eps not positive.

    Source: own; :func:`rate_gradient_bound`.

    Example:
        >>> expansion_weight(256, 64, eps=0.5) == expansion_weight(1024, 64, eps=0.5) == 1 / 64
        True
    """
    bound = rate_gradient_bound(n, d, eps=eps)
    return 1 / (math.sqrt(n) * bound) if bound else 0.0


def views_loss(
    views: Tensor,
    *,
    teacher: Tensor | None = None,
    eps: float = 0.5,
    weight: float | None = None,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Views of one image agree while the features of different images spread: no label, no negative pair.

    .. math::

        \frac1V \sum_v \Bigl( \tfrac1n \sum_i \tfrac12 \lVert \hat z_i^v - t_i^v \rVert^2
            - \gamma R(\hat Z^v) \Bigr), \qquad \hat z = z / \lVert z \rVert

    Without a teacher :math:`t_i^v` is the mean of the views of image i, through which gradients flow. With one, the
    first term is the mean over all pairs of a view of the student and another view of the teacher, a constant.

    Args:
        views: features (V, n, d) of V ≥ 2 views of n images; the n of all ranks are one batch.
        teacher: features (W, n, d) that an averaged network has of the first W ≤ V views.
        eps: distortion ε > 0.
        weight: γ ≥ 0; :func:`expansion_weight` of the batch of all ranks by default. Zero lets all features collapse.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number, in [−γ max R, 2]: negative once the features have spread. Zero for no sample at all.

    Raises:
        TypeError: views are no floating tensor.
        ValueError: fewer than two views, a teacher of another shape, NaN or infinity, eps not positive, weight < 0.

    Source: [EMPSSL], its objective with ½‖z − t‖² for 1 − cosine; with a teacher [SIMDINO].

    Example:
        >>> apart = torch.eye(4).expand(2, 4, 4)
        >>> together = torch.ones(2, 4, 4)
        >>> bool(views_loss(apart) < 0 < views_loss(apart, teacher=apart.flip(1))), round(float(views_loss(apart)), 4)
        (True, -0.8047)
    """
    _check_views(views)
    V, n, d = views.shape
    if teacher is not None and (teacher.ndim != 3 or teacher.shape[1:] != (n, d) or not 1 <= len(teacher) <= V):
        raise ValueError(f"teacher must have shape (W, {n}, {d}) with 1 <= W <= {V}; got {tuple(teacher.shape)}")
    check_positive(eps, "eps")
    if weight is not None:
        check_nonnegative(weight, "weight")
    total = _count_of_all(n, views, group)
    weight = expansion_weight(total, d, eps=eps) if weight is None else weight
    Z = unit_rows(views)
    if total == 0:
        return Z.sum()
    spread = total_coding_rate_regularizer(Z, eps=eps, normalize=False, core_dtype=core_dtype, group=group)
    if teacher is None:
        distance = (Z - Z.mean(0)).square().sum(-1)  # (V, n, d) -> (V, n)
        return _mean_over_ranks(distance / 2, distance.numel(), group) + weight * spread
    other = torch.ones(V, len(teacher), dtype=torch.bool, device=Z.device).fill_diagonal_(False)
    student, target = other.nonzero().unbind(-1)  # pairs of different views
    distance = (Z[student] - unit_rows(teacher.detach())[target]).square().sum(-1)  # (pairs, n)
    return _mean_over_ranks(distance / 2, distance.numel(), group) + weight * spread


def patch_loss(
    tokens: Tensor,
    teacher: Tensor,
    hidden: Tensor,
    *,
    eps: float = 0.5,
    weight: float = 0.0,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Patches that the student did not see agree with what its teacher makes of them: the second level of views.

    .. math:: \tfrac1m \sum_{i \in H} \tfrac12 \lVert \hat z_i - t_i \rVert^2 - \gamma R(\hat Z_H)

    Args:
        tokens: the student's tokens (B, n, d) of images with hidden patches.
        teacher: the averaged network's tokens (B, n, d) of the whole images, constants.
        hidden: boolean (B, n), True at the m patches H that were hidden; those of all ranks are one set.
        eps: distortion ε > 0.
        weight: γ ≥ 0 of the rate of the hidden patches; zero leaves it to the first level, :func:`srr.nn.views_loss`.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number; zero when no patch is hidden.

    Raises:
        TypeError: tokens are no floating tensor.
        ValueError: another shape, NaN or infinity, eps not positive, weight negative.

    Source: [SIMDINO], SimDINOv2: its patch term, which has weight 0.

    Example:
        >>> Z, hidden = torch.eye(4)[None], torch.tensor([[True, False, True, False]])
        >>> patch_loss(Z, Z, hidden), patch_loss(Z, -Z, hidden)
        (tensor(0.), tensor(2.))
    """
    if tokens.ndim != 3 or teacher.shape != tokens.shape or hidden.shape != tokens.shape[:2]:
        raise ValueError(
            "tokens and teacher must have shape (B, n, d) and hidden (B, n); "
            f"got {tuple(tokens.shape)}, {tuple(teacher.shape)} and {tuple(hidden.shape)}"
        )
    check_positive(eps, "eps")
    check_nonnegative(weight, "weight")
    Z, target = unit_rows(tokens[hidden]), unit_rows(teacher.detach()[hidden])  # (B, n, d) -> (m, d)
    if not _count_of_all(len(Z), Z, group):
        return Z.sum()
    agreement = _mean_over_ranks((Z - target).square().sum(-1) / 2, len(Z), group)
    if not weight:
        return agreement
    spread = total_coding_rate_regularizer(Z, eps=eps, normalize=False, core_dtype=core_dtype, group=group)
    return agreement + weight * spread


def nmce_loss(
    views: Tensor,
    memberships: Tensor,
    *,
    eps: float = 0.5,
    weight: float | None = None,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Clusters by rates: views agree while the rate grows and the rate inside the clusters falls, without a label.

    .. math::

        \frac1V \sum_v \Bigl( \tfrac1n \sum_i \tfrac12 \lVert \hat z_i^v - \bar z_i \rVert^2
            - \gamma\, \bigl(R(\hat Z^v) - R^c(\hat Z^v \mid \Pi)\bigr) \Bigr)

    Gradients reach the features and the memberships Π. The rate reduction is zero where all samples are in one cluster
    and positive elsewhere, so no term has to balance the clusters; R^c is concave in Π, so memberships become hard.

    Args:
        views: features (V, n, d) of V ≥ 2 views of n images; the n of all ranks are one batch.
        memberships: Π ≥ 0 of the images, (n, K), rows that sum to one.
        eps: distortion ε > 0.
        weight: γ ≥ 0; :func:`expansion_weight` of the batch of all ranks by default.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number; zero for no sample at all.

    Raises:
        TypeError: views or memberships are no floating tensor.
        ValueError: fewer than two views, memberships of another shape or negative, NaN or infinity, eps not positive,
            weight negative.

    Source: [NMCE], its objective with soft memberships and ½‖z − t‖² for 1 − cosine.

    Example:
        >>> Z, Pi = torch.eye(4).expand(2, 4, 4), torch.eye(2).repeat_interleave(2, 0)
        >>> bool(nmce_loss(Z, Pi) < nmce_loss(Z, torch.full((4, 2), 0.5)))
        True
    """
    _check_views(views)
    V, n, d = views.shape
    if memberships.ndim != 2 or len(memberships) != n or not memberships.is_floating_point():
        raise ValueError(
            f"memberships must be floating numbers ({n}, K); got {memberships.dtype} {tuple(memberships.shape)}"
        )
    total = _count_of_all(n, views, group)
    weight = expansion_weight(total, d, eps=eps) if weight is None else weight
    apart = views_loss(views, eps=eps, weight=weight, core_dtype=core_dtype, group=group)
    if not total:
        return apart + 0 * memberships.sum()
    Z = unit_rows(views)
    Pi = memberships.to(Z.dtype).expand(V, -1, -1)  # (n, K) -> (V, n, K)
    if world_size(group) > 1:
        inside = _moment_of_all(Z, Pi, core_dtype, group, lambda moment: moment.partition_coding_rate(eps=eps))
    else:
        with torch.autocast(Z.device.type, enabled=False):
            inside = ops.partition_coding_rate(Z, Pi, eps=eps, core_dtype=core_dtype).mean()
    return apart + weight * inside


def ctrl_loss(
    Z: Tensor,
    decoded: Tensor,
    labels: Tensor | None = None,
    *,
    eps: float = 0.5,
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Tensor:
    r"""Closed-loop transcription: minus the utility that an encoder f raises and a decoder g lowers, in nats.

    .. math::

        -\Delta R(Z, \hat Z) \quad\text{without labels, else}\quad
        -\Delta R(Z \mid \Pi) - \Delta R(\hat Z \mid \Pi) - \sum_j \Delta R(Z_j, \hat Z_j),

    .. math::

        Z = f(X),\quad \hat Z = f(g(Z)), \qquad
        \Delta R(A, B) = R\begin{pmatrix} A \\ B \end{pmatrix} - \tfrac12 R(A) - \tfrac12 R(B)

    All features are on the unit sphere. The distance ΔR(A, B) of two sets is zero where their second moments are equal.
    The encoder descends this loss and the decoder climbs it, so that only codes of what was decoded faithfully meet
    the codes of the images.

    Args:
        Z: codes (n, d) of the images; the n of all ranks are one set.
        decoded: codes (n, d) of what was decoded from Z.
        labels: class numbers (n,) for the form with classes (LDR-multi); none for the one without (LDR-binary).
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Returns:
        One number, at most zero; zero for no sample at all.

    Raises:
        TypeError: Z or decoded is no floating tensor.
        ValueError: another shape, NaN or infinity, eps not positive.

    Source: [CTRL], its objectives for binary and multi-class transcription.

    Example:
        >>> Z = torch.eye(4)
        >>> bool(ctrl_loss(Z, Z) == 0), bool(ctrl_loss(Z, Z.flip(0).abs() + 1) < 0)
        (True, True)
    """
    if Z.ndim != 2 or decoded.shape != Z.shape:
        raise ValueError(f"Z and decoded must have one shape (n, d); got {tuple(Z.shape)} and {tuple(decoded.shape)}")
    options: dict[str, Any] = {"eps": eps, "normalize": False, "core_dtype": core_dtype, "group": group}
    Z, decoded = unit_rows(Z), unit_rows(decoded)

    def distance(one: Tensor, other: Tensor) -> Tensor:
        """Minus ΔR of two sets of equal size: the rate reduction of both together, two classes."""
        sides = torch.arange(2, device=Z.device).repeat_interleave(len(one))
        return mcr2_loss(torch.cat((one, other)), sides, **options)

    if labels is None:
        return distance(Z, decoded)
    if labels.shape != Z.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be class numbers ({len(Z)},); got {labels.dtype} {tuple(labels.shape)}")
    pairs = [distance(Z[labels == j], decoded[labels == j]) for j in range(_classes(labels, group))]
    return mcr2_loss(Z, labels, **options) + mcr2_loss(decoded, labels, **options) + torch.stack(pairs).sum()


def _check_views(views: Tensor) -> None:
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views must have shape (V, n, d) with V >= 2; got {tuple(views.shape)}")


def _count_of_all(n: int, like: Tensor, group: Group) -> int:
    """Number of samples of all ranks."""
    return n if world_size(group) == 1 else int(sum_over_ranks(torch.tensor(n, device=like.device), group))


def unit_rows(Z: Tensor) -> Tensor:
    """Rows of unit norm in at least float32; a zero row stays zero."""
    return functional.normalize(at_least_single(Z), dim=-1)


def at_least_single(Z: Tensor) -> Tensor:
    """Tokens in float32 where they are in a lower precision."""
    return Z if Z.dtype in (torch.float32, torch.float64) else Z.float()


def _moment_of_all(
    Z: Tensor,
    Pi: Tensor | None,
    core_dtype: torch.dtype | None,
    group: Group,
    rate: Callable[[ops.SecondMoment], Array],
) -> Tensor:
    """Mean over the batch axes of a rate of the tokens (..., n, d) of all ranks."""
    classes = None
    if Pi is not None:
        classes = Pi.shape[-1] if Pi.is_floating_point() else _classes(Pi, group)
        Pi = Pi.expand(*Z.shape[:-1], classes) if Pi.is_floating_point() else Pi.expand(Z.shape[:-1])
    count = math.prod(Z.shape[:-2])
    sets = Z.reshape(count, *Z.shape[-2:])  # (..., n, d) -> (B, n, d)
    parts = [None] * count if Pi is None else Pi.reshape(count, *Pi.shape[Z.ndim - 2 :])  # (B, n) or (B, n, K)
    with torch.autocast(Z.device.type, enabled=False):
        rates = [rate(_moment(z, pi, classes, core_dtype, group)) for z, pi in zip(sets, parts, strict=True)]
    return torch.stack([tensor(r) for r in rates]).mean().to(Z.dtype)


def _moment(
    Z: Tensor, Pi: Tensor | None, classes: int | None, core_dtype: torch.dtype | None, group: Group
) -> ops.SecondMoment:
    """Second moment of the tokens (n, d) of all ranks; a rank without any takes part in the sum and its gradient."""
    make = partial(ops.SecondMoment.zeros, Z.shape[-1], like=Z, core_dtype=core_dtype)
    moment = make(classes=classes)
    if not len(Z):
        moment = ops.SecondMoment(moment.moment + Z.sum(), moment.count)
    elif Pi is None or not Pi.is_floating_point():
        moment = moment.update(Z, labels=Pi)
    else:
        parts = [make().update(Z, weights=weights.to(Z.dtype)) for weights in Pi.unbind(-1)]
        sums = [torch.stack([tensor(x) for x in xs]) for xs in zip(*((p.moment, p.count) for p in parts), strict=True)]
        moment = ops.SecondMoment(*sums)
    return moment.map(lambda x: sum_over_ranks(tensor(x), group))


def _classes(labels: Tensor, group: Group) -> int:
    """One more than the largest label of all ranks."""
    largest = labels.max() if labels.numel() else labels.new_zeros(())
    if world_size(group) > 1:
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    return int(largest) + 1


def tensor(x: Array) -> Tensor:
    """What an operator made of tensors, as the tensor it is."""
    assert isinstance(x, Tensor)
    return x


class Penalty(Protocol):
    """The term of the latest forward pass."""

    def __call__(self, real: Tensor | None = None) -> Tensor:
        """The term, of the samples where ``real`` (B,) is True."""


@contextlib.contextmanager
def srr_regularizer(
    model: nn.Module,
    layers: Sequence[int] | None = None,
    *,
    eps: float = 0.5,
    lam: float = 0.1,
    normalize: bool = True,
    scope: str = "image",
    core_dtype: torch.dtype | None = None,
    group: Group = None,
) -> Iterator[Penalty]:
    r"""Minus the sparse rate reduction of the tokens that leave chosen layers, in nats.

    .. math::

        \frac{1}{|L|} \sum_{\ell \in L} R^c(Z^{\ell+1}; U_\ell) - R(Z^{\ell+1})
            + \lambda\, \tfrac1n \lVert Z^{\ell+1} \rVert_1

    Inside the context every forward pass of the model leaves its tokens with the layers; calling the yielded function
    gives the term of the latest pass, with gradients to everything that made the tokens and to the bases.

    Args:
        model: a network with ``blocks`` that have ``attention.U``.
        layers: their numbers, negative ones from the end; all of them by default.
        eps: distortion ε > 0.
        lam: sparsity weight λ ≥ 0 of the mean ℓ1 norm of a token.
        normalize: scale tokens to unit norm first, so that the term cannot be lowered by scale alone.
        scope: ``"image"`` takes the tokens of each image as one set and the mean over the images of all ranks,
            ``"batch"`` takes all tokens of all ranks as one set.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.
        group: processes whose batches make one batch, all of them by default.

    Yields:
        A function that returns the term, a scalar, mean over the chosen layers; given a boolean (B,), of the samples
        where that is True.

    Raises:
        ValueError: a layer the model does not have or one without bases, no layer at all, eps not positive, lam
            negative, another scope; or the term asked for before any forward pass.

    Source: The regularizer of [INDEPTH], with ‖·‖₁ in place of ‖·‖₀.

    Example:
        >>> from srr.nn import create_model
        >>> model = create_model("crate_micro")
        >>> with srr_regularizer(model, layers=[-1]) as penalty:
        ...     loss = model(torch.zeros(2, 1, 8, 8)).square().mean() + 0.01 * penalty()
        >>> loss.backward()
        >>> model.blocks[-1].attention.projection.grad is not None
        True
    """
    check_positive(eps, "eps")
    check_nonnegative(lam, "lam")
    if scope not in ("image", "batch"):
        raise ValueError(f"scope must be 'image' or 'batch'; got {scope!r}")
    gain = partial(_gain_of_images if scope == "image" else _gain_of_all, eps=eps, core_dtype=core_dtype, group=group)

    def measure(Z: Tensor, U: Tensor) -> Tensor:
        """R^c − R + λ·(mean ℓ1 norm of a token) of tokens (B, n, d)."""
        Z = unit_rows(Z) if normalize else at_least_single(Z)
        length = Z.abs().sum(-1)  # (B, n, d) -> (B, n)
        return lam * _mean_over_ranks(length, length.numel(), group) - gain(Z, U)

    with layer_states(model, layers) as seen:

        def penalty(real: Tensor | None = None) -> Tensor:
            if not seen:
                raise ValueError("penalty must be asked for after a forward pass of the model; got none")
            kept = slice(None) if real is None else real
            return torch.stack([measure(s.after[kept], full_tensor(bases_of(s.block))) for s in seen.values()]).mean()

        for layer, block in chosen_blocks(model, layers).items():
            if not hasattr(getattr(block, "attention", None), "U"):
                raise ValueError(f"layers must have bases, attention.U; got layer {layer} without")
        yield penalty


def _gain_of_images(Z: Tensor, U: Tensor, *, eps: float, core_dtype: torch.dtype | None, group: Group) -> Tensor:
    """R − R^c of the tokens of each image, mean over the images (B, n, d) of all ranks."""
    if not len(Z):
        return _mean_over_ranks(Z.sum() + 0 * U.sum(), 0, group)
    expanded = fused_coding_rate(Z, eps=eps, core_dtype=core_dtype)
    gain = expanded - fused_subspace_coding_rate(Z, U, eps=eps, core_dtype=core_dtype)
    return _mean_over_ranks(gain, gain.numel(), group)


def _gain_of_all(Z: Tensor, U: Tensor, *, eps: float, core_dtype: torch.dtype | None, group: Group) -> Tensor:
    """R − R^c of all tokens (B, n, d) of all ranks as one set."""
    with torch.autocast(Z.device.type, enabled=False):
        moment = _moment(Z.flatten(0, -2), None, None, core_dtype, group)  # (B, n, d) -> (B n, d) -> (d, d)
        gain = moment.coding_rate(eps=eps) - moment.subspace_coding_rate(at_least_single(U), eps=eps)
        return tensor(gain).to(Z.dtype)


def bases_of(block: nn.Module) -> Tensor:
    """Bases (K, d, p) of a layer."""
    attention: Any = block.get_submodule("attention")
    U: Tensor = attention.U
    return U


def full_tensor(x: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded over ranks."""
    gather: Callable[[], Tensor] | None = getattr(x, "full_tensor", None)
    return x if gather is None else gather()


Pair = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Value (...) and gradient (..., n, d) of a rate at tokens (..., n, d)."""


class _FusedRate(torch.autograd.Function):
    """A rate of tokens whose gradient comes from the factorization that gave its value."""

    @staticmethod
    def forward(ctx: Any, Z: Tensor, pair: Pair) -> Tensor:
        value, slope = pair(Z.detach())
        ctx.save_for_backward(Z, slope)
        ctx.pair = pair
        return value

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        Z, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # a graph of the gradient is wanted: differentiate the closed form itself
            with torch.autocast(Z.device.type, enabled=False):
                slope = ctx.pair(Z)[1]
        return cotangent[..., None, None] * slope, None


def _rate(Z: Tensor, value: Callable[[Tensor], Tensor], pair: Pair) -> Tensor:
    """The rate of tokens in at least float32, fused with its gradient when one will be asked for."""
    Z = at_least_single(Z)
    with torch.autocast(Z.device.type, enabled=False):
        if torch.is_grad_enabled() and Z.requires_grad:
            fused: Callable[[Tensor, Pair], Tensor] = _FusedRate.apply
            return fused(Z, pair)
        return value(Z)


def fused_coding_rate(
    Z: Tensor, *, eps: float, weights: Tensor | None = None, core_dtype: torch.dtype | None = None
) -> Tensor:
    r"""Coding rate of tokens, in nats, ready for back-propagation.

    .. math:: R(Z) = \tfrac12 \log\det(I + \alpha Z^\top W Z), \qquad \nabla R = \alpha W Z (I + \alpha Z^\top W Z)^{-1}

    One Gram matrix and one Cholesky factor serve the forward and the backward pass. A second derivative differentiates
    the closed-form gradient.

    Args:
        Z: tokens (..., n, d) of any floating dtype; half precision is computed in the core and returned in float32.
        eps: distortion ε > 0.
        weights: token weights w ≥ 0 of shape (..., n), constants; zero masks a token.
        core_dtype: dtype of the Gram matrix and its factor, float64 by default. ``torch.float32`` is faster and can be
            trusted where 6e-8 · α · λ_max(ZᵀZ) ≪ 1.

    Returns:
        Rate of shape (...), in nats.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: too few axes, NaN or infinity, eps not positive, weights that ask for a gradient.

    Source: [CRATE] (7), [MCR2] (1).

    Example:
        >>> Z = torch.eye(4, requires_grad=True)
        >>> fused_coding_rate(Z, eps=1.0).backward()
        >>> Z.grad.diagonal()
        tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    _refuse_gradient(weights, "weights")
    options: dict[str, Any] = {"eps": eps, "weights": weights, "core_dtype": core_dtype}
    return _rate(Z, partial(ops.coding_rate, **options), partial(ops.coding_rate_value_and_grad, **options))


def fused_subspace_coding_rate(Z: Tensor, U: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
    r"""Coding rate of tokens under K subspaces, in nats; gradients reach tokens and bases.

    .. math:: R^c(Z; U) = \sum_k R(Z U_k), \qquad
        \nabla_{V_k} = \beta V_k (I + \beta V_k^\top V_k)^{-1},\ V_k = Z U_k

    Args:
        Z: tokens (..., n, d).
        U: bases (K, d, p); may be in another floating dtype than the tokens, as under autocast.
        eps: distortion ε > 0.
        core_dtype: dtype of the projections, the Gram matrices and their factors, float64 by default.

    Returns:
        Rate of shape (...), in nats.

    Raises:
        TypeError: Z or U is not a floating tensor.
        ValueError: U does not have shape (K, d, p) with the d of Z, NaN or infinity, eps not positive.

    Source: [CRATE] (8)-(9).

    Example:
        >>> U = torch.eye(4).reshape(4, 2, 2).transpose(0, 1)
        >>> float(fused_subspace_coding_rate(torch.eye(4), U, eps=1.0) / torch.tensor(1.5).log())
        2.0
    """
    check_tokens(Z)
    check_bases(U, Z.shape[-1])
    xp = namespace(Z, U)
    dtype = torch.float64 if Z.dtype == torch.float64 else torch.float32
    with torch.autocast(Z.device.type, enabled=False):
        V = ops.project(core_cast(Z, core_dtype, xp), core_cast(U, core_dtype, xp))  # (..., K, n, p)
        return fused_coding_rate(V, eps=eps, core_dtype=V.dtype).sum(-1).to(dtype)


def fused_rate_reduction(Z: Tensor, Pi: Tensor, *, eps: float, core_dtype: torch.dtype | None = None) -> Tensor:
    r"""Rate reduction of tokens under a partition, in nats, ready for back-propagation to the tokens.

    .. math:: \Delta R(Z \mid \Pi) = R(Z) - R^c(Z \mid \Pi)

    Args:
        Z: tokens (..., n, d).
        Pi: integer labels (..., n) or (n,), or membership weights (..., n, K); constants. Labels are sorted on the
            host, so ``torch.compile`` breaks the graph there; memberships compile without a break.
        eps: distortion ε > 0.
        core_dtype: dtype of the Gram matrices and their factors, float64 by default.

    Returns:
        Reduction of shape (...), in nats.

    Raises:
        TypeError: Z is not a floating tensor.
        ValueError: labels or memberships of another length, negative, or asking for a gradient; eps not positive.

    Source: [MCR2] (9).

    Example:
        >>> Z = torch.eye(2, requires_grad=True)
        >>> fused_rate_reduction(Z, torch.tensor([0, 1]), eps=1.0).backward()
        >>> Z.grad.diagonal()
        tensor([0.1667, 0.1667])
    """
    _refuse_gradient(Pi, "Pi")
    reduce = _labeled if not Pi.is_floating_point() else _reduce
    return reduce(Z, Pi, eps, core_dtype)


def _reduce(Z: Tensor, Pi: Tensor, eps: float, core_dtype: torch.dtype | None) -> Tensor:
    if Pi.is_floating_point():
        Pi = Pi.to(Z.dtype if Z.dtype == torch.float64 else torch.float32)
    options: dict[str, Any] = {"Pi": Pi, "eps": eps, "core_dtype": core_dtype}
    return _rate(Z, partial(ops.rate_reduction, **options), partial(ops.rate_reduction_value_and_grad, **options))


# The public decorator, torch.compiler.disable, loads the compiler at once.
_outside_graphs: Callable[..., Callable[..., Tensor]] = _disable_dynamo
_labeled = _outside_graphs(_reduce)


def _refuse_gradient(constant: Tensor | None, name: str) -> None:
    if constant is not None and constant.requires_grad:
        raise ValueError(f"{name} must be a constant: no gradient is defined for it; pass {name}.detach()")
