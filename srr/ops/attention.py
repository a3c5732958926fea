"""Subspace self-attention: the softmax heuristic that networks run in place of the compression gradient."""

from __future__ import annotations

from srr._array import (
    Array,
    Namespace,
    asarray_like,
    device,
    is_torch,
    namespace,
    scaled_dot_product_attention,
    softmax,
)
from srr._checks import check_array, check_bases, check_count, check_nonnegative, check_positive
from srr.ops.subspaces import lift, lift_unchecked, project


def ssa(
    V: Array,
    *,
    scale: float = 1.0,
    causal: bool = False,
    mask: Array | None = None,
    rows: int | None = None,
    xp: Namespace = None,
) -> Array:
    r"""Subspace self-attention: every token becomes a softmax-weighted mean of the tokens of its head.

    .. math:: \mathrm{SSA}(V) = \operatorname{softmax}_{\text{rows}}(s\, V V^\top)\, V

    Args:
        V: coordinates of shape (..., n, p).
        scale: s ≥ 0; 1 in the theory, p^{-1/2} in the released networks.
        causal: let token i see tokens j ≤ i only.
        mask: boolean, broadcastable to (..., n, n); True where token i may see token j. A row that may see
            nothing gives zeros.
        rows: how many leading tokens to compute, all n by default; every one of them still sees all n.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., rows, p).

    Raises:
        TypeError: V is not a real floating array, mask not boolean, rows not an integer.
        ValueError: scale negative, mask of another size, rows outside 1 … n, NaN or infinity.

    Source: [CRATE] (11). Gram matrix → softmax is a heuristic without an error bound.

    Example:
        >>> import numpy as np, srr
        >>> srr.ssa(np.asarray([[1.0], [3.0]]), scale=0.0).ravel().tolist()
        [2.0, 2.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    scale = check_nonnegative(scale, "scale")
    _check_mask(mask, V.shape[-2], xp)
    _check_rows(rows, V.shape[-2])
    return _attend(V, scale, causal, mask, rows, xp)


def _attend(V: Array, scale: float, causal: bool, mask: Array | None, rows: int | None, xp: Namespace) -> Array:
    """The one branch by library: torch has fused kernels for attention, the others get the formula."""
    Q = V[..., :rows, :]
    if mask is not None:
        mask = mask[..., :rows, :]
    if not is_torch(V):
        return _weights(Q, V, scale, causal, mask, xp) @ V
    if causal and mask is not None:
        mask, causal = mask & _lower(Q, V, xp), False
    return scaled_dot_product_attention(Q, V, scale=scale, causal=causal, mask=mask)


def attention_weights(
    V: Array, *, scale: float = 1.0, causal: bool = False, mask: Array | None = None, xp: Namespace = None
) -> Array:
    r"""Attention matrix :math:`\operatorname{softmax}_{\text{rows}}(s\, V V^\top)` that :func:`ssa` applies.

    Args:
        V: coordinates of shape (..., n, p).
        scale: s ≥ 0.
        causal: let token i see tokens j ≤ i only.
        mask: boolean, broadcastable to (..., n, n); True where token i may see token j.
        xp: array namespace; looked up when None.

    Returns:
        Weights of shape (..., n, n); rows sum to one, or to zero where a row may see nothing.

    Raises:
        TypeError: V is not a real floating array, mask not boolean.
        ValueError: scale negative, mask of another size, NaN or infinity.

    Source: [CRATE] (11).
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    scale = check_nonnegative(scale, "scale")
    _check_mask(mask, V.shape[-2], xp)
    return _weights(V, V, scale, causal, mask, xp)


def _weights(Q: Array, V: Array, scale: float, causal: bool, mask: Array | None, xp: Namespace) -> Array:
    scores = (Q @ V.mT) * scale
    if causal:
        mask = _lower(Q, V, xp) if mask is None else mask & _lower(Q, V, xp)
    if mask is not None:
        scores = xp.where(mask, scores, xp.full_like(scores, -float("inf")))
    return softmax(scores, axis=-1, xp=xp)


def _lower(Q: Array, V: Array, xp: Namespace) -> Array:
    """Lower triangle: row i sees tokens j ≤ i."""
    place = xp.arange(V.shape[-2], device=device(V))
    return place[: Q.shape[-2], None] >= place[None, :]


def _check_rows(rows: int | None, n: int) -> None:
    if rows is None:
        return
    check_count(rows, "rows")
    if rows > n:
        raise ValueError(f"rows must be at most the number of tokens {n}; got {rows}")


def _check_mask(mask: Array | None, n: int, xp: Namespace) -> None:
    if mask is None:
        return
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"mask must be boolean, True where a token may be seen; got {mask.dtype}")
    if mask.ndim < 2 or any(size not in (1, n) for size in mask.shape[-2:]):
        raise ValueError(f"mask must broadcast to (..., {n}, {n}); got shape {tuple(mask.shape)}")


def mssa(
    Z: Array,
    U: Array,
    *,
    out: Array | None = None,
    bias: Array | None = None,
    scale: float = 1.0,
    causal: bool = False,
    mask: Array | None = None,
    rows: int | None = None,
    xp: Namespace = None,
) -> Array:
    r"""Multi-head subspace self-attention.

    .. math:: \mathrm{MSSA}(Z) = \sum_k \mathrm{SSA}(Z U_k)\, W_k^\top + b,\qquad W = U,\ b = 0 \text{ in the theory}

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        out: output maps W of shape (K, d, p); U itself by default.
        bias: b of shape (d,), none by default.
        scale: s ≥ 0; 1 in the theory, p^{-1/2} in the released networks.
        causal: let token i see tokens j ≤ i only.
        mask: boolean, broadcastable to (..., n, n), the same for every head; ``keep[..., None, :]`` hides padding
            tokens from the others.
        rows: how many leading tokens to compute, all n by default; every one of them still sees all n.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., rows, d).

    Raises:
        TypeError: an argument is not a real floating array, mask not boolean, rows not an integer.
        ValueError: sizes that do not fit, scale negative, rows outside 1 … n, NaN or infinity.

    Source: [CRATE] (11)-(12), without the factor β, which (10) carries already; ``out`` and ``bias`` are the free
        output map of the released networks.
    """
    xp = namespace(Z, U, out, bias, mask, xp=xp)
    _check_output(out, bias, U, xp)
    scale = check_nonnegative(scale, "scale")
    check_array(Z, "Z", finite=False, xp=xp)  # the projection reads the numbers
    _check_mask(mask, Z.shape[-2], xp)
    _check_rows(rows, Z.shape[-2])
    V = project(Z, U, xp=xp)  # (..., K, n, p)
    heads = _attend(V, scale, causal, over_heads(mask), rows, xp)
    lifted = lift_unchecked(heads, U if out is None else out, xp)
    if bias is not None:
        lifted += bias
    return lifted


def _check_output(out: Array | None, bias: Array | None, U: Array, xp: Namespace) -> None:
    """Refuse output maps or a bias that do not fit the bases."""
    if out is None and bias is None:
        return
    check_bases(U, xp=xp)
    if out is not None:
        check_bases(out, name="out", xp=xp)
        if tuple(out.shape[-3:]) != tuple(U.shape[-3:]):
            raise ValueError(f"out must have shape (K, d, p) of U, {tuple(U.shape[-3:])}; got {tuple(out.shape)}")
    if bias is not None:
        check_array(bias, "bias", ndim=1, xp=xp)
        if bias.shape[-1] != U.shape[-2]:
            raise ValueError(f"bias must have shape (d,) with d={U.shape[-2]}; got {tuple(bias.shape)}")


def over_heads(mask: Array | None) -> Array | None:
    """Insert the head axis into a mask of shape (..., n, n)."""
    return mask if mask is None or mask.ndim < 3 else mask[..., None, :, :]


def thresholded_ssa(V: Array, *, threshold: float, scale: float = 1.0, xp: Namespace = None) -> Array:
    r"""Subspace attention that is all or nothing: :math:`h_\tau(\operatorname{softmax}(s V V^\top)) V`.

    Args:
        V: coordinates of shape (..., n, p).
        threshold: τ > 0; weights above τ become τ, the others zero.
        scale: s ≥ 0 inside the softmax.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., n, p).

    Raises:
        TypeError: V is not a real floating array.
        ValueError: threshold not positive, scale negative, NaN or infinity.

    Source: [AOT], the operator of its denoising theorem.
    """
    xp = namespace(V, xp=xp)
    threshold = check_positive(threshold, "threshold")
    weights = attention_weights(V, scale=scale, xp=xp)
    level = asarray_like(threshold, V, xp=xp)
    return xp.where(weights > threshold, level, xp.zeros_like(weights)) @ V


def thresholded_mssa(Z: Array, U: Array, *, threshold: float, scale: float = 1.0, xp: Namespace = None) -> Array:
    r"""Multi-head form of :func:`thresholded_ssa`; :math:`Z + \eta\,` of it denoises a mixture of subspaces.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        threshold: τ > 0.
        scale: s ≥ 0 inside the softmax.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d).

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: as :func:`thresholded_ssa`, or U without the d of Z.

    Source: [AOT]: in its regime the signal-to-noise ratio grows by exactly 1 + ητ per layer.
    """
    xp = namespace(Z, U, xp=xp)
    V = project(Z, U, xp=xp)
    return lift(thresholded_ssa(V, threshold=threshold, scale=scale, xp=xp), U, xp=xp)
