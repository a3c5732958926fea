"""Attention: how the tokens of a sequence move one another, and what of it compresses them.

From the exact gradient step on R^c to the operators that networks run in its place: its Neumann series, softmax over
the coordinates of every head, thresholds, token statistics, and a few representatives that speak for all.
"""

from __future__ import annotations

from collections.abc import Callable

from srr._array.checks import (
    check_array,
    check_bases,
    check_count,
    check_mask,
    check_nonnegative,
    check_positive,
    check_tokens,
)
from srr._array.namespace import (
    Array,
    ArrayT,
    Namespace,
    cast_like,
    device,
    is_free_of_nan,
    is_torch,
    namespace,
    scaled_dot_product_attention,
    softmax,
    widen,
    widened,
)
from srr.ops.rates import rate_scale, subspace_coding_rate_grad
from srr.ops.subspaces import bare_lift, bare_membership, bare_project, merge_heads, split_heads


def layer_norm(Z: ArrayT, *, offset: float = 1e-5, xp: Namespace = None) -> ArrayT:
    r"""Tokens with their mean removed and divided by their standard deviation.

    .. math:: \frac{z - \bar z}{\sqrt{\overline{(z - \bar z)^2} + \delta}}

    Args:
        Z: tokens of shape (..., n, d).
        offset: δ ≥ 0 added to the variance, in squared units of Z.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d): the normalization of torch's LayerNorm without its weight and bias. Rows have
        norm √d, not 1, as far as δ is small; a constant token becomes zero.

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: offset negative, NaN or infinity in Z.

    Source: Ba, Kiros and Hinton (2016), (4); the LN of [CRATE] (18).

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.layer_norm(np.asarray([[1.0, 3.0]]), offset=0.0).tolist()
        [[-1.0, 1.0]]
    """
    xp = namespace(Z, xp=xp)
    check_tokens(Z, xp=xp)
    offset = check_nonnegative(offset, "offset")
    A = widen(Z, xp)
    centered = A - xp.mean(A, axis=-1, keepdims=True)
    variance = xp.mean(centered**2, axis=-1, keepdims=True) + offset
    return cast_like(centered / xp.sqrt(xp.where(variance > 0, variance, xp.ones_like(variance))), Z, xp)


def compression_step(Z: ArrayT, U: ArrayT, *, step: float, eps: float, xp: Namespace = None) -> ArrayT:
    r"""Exact gradient step that compresses tokens: :math:`Z - \kappa \nabla R^c(Z; U)`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        step: step size κ ≥ 0; up to 1/L_c it lowers R^c by at least κ‖∇R^c‖²/2.
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        Tokens of shape (..., n, d).

    Raises:
        TypeError: Z or U is not a real floating array, or their dtypes differ.
        ValueError: U without the d of Z, step negative, eps not positive, NaN or infinity.

    Source: [CRATE] (9)-(10), before any approximation.
    """
    step = check_nonnegative(step, "step")
    return Z - step * subspace_coding_rate_grad(Z, U, eps=eps, xp=xp)


def neumann_grad(Z: ArrayT, U: ArrayT, *, eps: float, terms: int = 1, xp: Namespace = None) -> ArrayT:
    r"""Gradient of R^c with the inverse replaced by its Neumann series.

    .. math:: \beta \sum_k \sum_{j=0}^{J} V_k (-\beta V_k^\top V_k)^j U_k^\top

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        terms: J ≥ 0, terms beyond the identity; the paper has 1.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d), nats per unit of Z.

    Raises:
        TypeError: Z or U is not a real floating array, or terms not an integer.
        ValueError: U without the d of Z, eps not positive, terms negative, NaN or infinity.

    Source: [CRATE] (10); the error is at most β³ (Σ‖V_k‖₂⁸‖V_k‖_F²)^½ for J = 1 and mutually orthogonal heads.

    Of use only where :func:`neumann_validity` is below one; beyond, more terms make it worse and the first-order form
    need not even be a descent direction.
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_count(terms, "terms", least=0)
    beta = rate_scale(Z.shape[-2], U.shape[-1], eps=eps)
    return cast_like(bare_neumann_grad(widen(Z, xp), widen(U, xp), beta, terms, xp), Z, xp)


def bare_neumann_grad(Z: ArrayT, U: ArrayT, beta: float, terms: int, xp: Namespace) -> ArrayT:
    """Formula of :func:`neumann_grad`; β is the scale of one head."""
    V = bare_project(Z, U, xp)
    contraction = -beta * (V.mT @ V)  # (..., K, p, p)
    term = total = V
    for _ in range(terms):
        term = term @ contraction
        total = total + term
    return beta * bare_lift(total, U, xp)


def neumann_step(Z: ArrayT, U: ArrayT, *, step: float, eps: float, terms: int = 1, xp: Namespace = None) -> ArrayT:
    r"""Compression step with :func:`neumann_grad`, :math:`Z - \kappa \widehat{\nabla R^c}`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        step: step size κ ≥ 0.
        eps: distortion ε > 0.
        terms: terms of the series beyond the identity.
        xp: array namespace; looked up when None.

    Returns:
        Tokens of shape (..., n, d).

    Raises:
        TypeError: as :func:`neumann_grad`.
        ValueError: as :func:`neumann_grad`, or step negative.

    Source: [CRATE] (10), first two lines.
    """
    step = check_nonnegative(step, "step")
    return Z - step * neumann_grad(Z, U, eps=eps, terms=terms, xp=xp)


def neumann_validity(Z: ArrayT, U: ArrayT, *, eps: float, xp: Namespace = None) -> ArrayT:
    r"""Number that must be below one for the Neumann series to converge: :math:`\beta \max_k \lVert V_k \rVert_2^2`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        eps: distortion ε > 0.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (...).

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U without the d of Z, eps not positive, NaN or infinity.

    Source: the radius of convergence of the series in [CRATE] (10).
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    beta = rate_scale(Z.shape[-2], U.shape[-1], eps=eps)
    V = bare_project(widen(Z, xp), widen(U, xp), xp)
    return cast_like(beta * xp.max(xp.linalg.svdvals(V)[..., 0], axis=-1) ** 2, Z, xp)


def ssa(
    V: ArrayT,
    *,
    scale: float = 1.0,
    causal: bool = False,
    mask: ArrayT | None = None,
    rows: int | None = None,
    xp: Namespace = None,
) -> ArrayT:
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
        >>> srr.ops.ssa(np.asarray([[1.0], [3.0]]), scale=0.0).ravel().tolist()
        [2.0, 2.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    scale = check_nonnegative(scale, "scale")
    check_mask(mask, (V.shape[-2], V.shape[-2]), xp=xp)
    _check_rows(rows, V.shape[-2])
    return cast_like(bare_ssa(widen(V, xp), scale, causal, mask, rows, xp), V, xp)


def bare_ssa(V: ArrayT, scale: float, causal: bool, mask: ArrayT | None, rows: int | None, xp: Namespace) -> ArrayT:
    """Formula of :func:`ssa`."""
    Q = V if rows is None else V[..., :rows, :]
    if mask is not None:
        mask = mask[..., :rows, :]
    if causal and (mask is not None or not is_torch(V)):  # torch takes one or the other
        below = not_after(0, Q.shape[-2], V, xp)
        mask, causal = below if mask is None else mask & below, False
    if is_torch(V):
        return scaled_dot_product_attention(Q, V, scale=scale, causal=causal, mask=mask)
    return softmax_weights(Q, V, scale, mask, xp) @ V


def softmax_weights(Q: ArrayT, V: ArrayT, scale: float, mask: ArrayT | None, xp: Namespace) -> ArrayT:
    """Rows of softmax(scale · Q Vᵀ) over the keys that the mask lets a query see; zeros where it sees none."""
    scores = (Q @ V.mT) * scale
    if mask is not None:
        scores = xp.where(mask, scores, xp.full_like(scores, -float("inf")))
    return softmax(scores, axis=-1, xp=xp)


def not_after(start: int, stop: int, V: ArrayT, xp: Namespace) -> ArrayT:
    """Rows ``start`` to ``stop`` of the lower triangle: row i sees tokens j ≤ i."""
    place = xp.arange(V.shape[-2], device=device(V))
    return place[start:stop, None] >= place[None, :]


def _check_rows(rows: int | None, n: int) -> None:
    if rows is None:
        return
    check_count(rows, "rows")
    if rows > n:
        raise ValueError(f"rows must be at most the number of tokens {n}; got {rows}")


def ssa_newest(
    V: ArrayT, *, count: int, scale: float = 1.0, mask: ArrayT | None = None, xp: Namespace = None
) -> ArrayT:
    r"""Last rows of causal subspace self-attention, at the cost of those rows alone.

    .. math:: \operatorname{softmax}(s\, V_{\text{new}} V^\top)\, V, \qquad V_{\text{new}} = \text{last rows of } V

    with every row seeing the tokens up to its own.

    Args:
        V: coordinates of the whole sequence, of shape (..., n, p).
        count: number of newest tokens, 1 ≤ count ≤ n.
        scale: s ≥ 0.
        mask: boolean, broadcastable to (..., n); True at tokens that may be seen. A row that may see nothing gives
            zeros.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., count, p), the last rows of ``ssa(V, scale=s, causal=True)`` with that mask.

    Raises:
        TypeError: V is not a real floating array, mask not boolean.
        ValueError: count outside 1 … n, mask of another length, scale negative, NaN or infinity.

    Source: [CRATE] (11) under a causal mask; queries, keys and values are one array, so V is the whole memory.

    Example:
        >>> import numpy as np, srr
        >>> V = np.asarray([[1.0], [3.0], [5.0]])
        >>> srr.ops.ssa_newest(V, count=2, scale=0.0).ravel().tolist()
        [2.0, 3.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_count(count, "count")
    scale = check_nonnegative(scale, "scale")
    if count > V.shape[-2]:
        raise ValueError(f"count must be at most the number of tokens {V.shape[-2]}; got {count}")
    check_mask(mask, (V.shape[-2],), xp=xp)
    return cast_like(bare_ssa_newest(widen(V, xp), count, scale, mask, xp), V, xp)


def bare_ssa_newest(V: ArrayT, count: int, scale: float, mask: ArrayT | None, xp: Namespace) -> ArrayT:
    """Formula of :func:`ssa_newest`."""
    n = V.shape[-2]
    seen = None if count == 1 else not_after(n - count, n, V, xp)  # (count, n); the last token sees all
    if mask is not None:
        hidden = mask[..., None, :]  # (..., 1, n)
        seen = hidden if seen is None else seen & hidden
    Q = V[..., n - count :, :]
    if is_torch(V):
        return scaled_dot_product_attention(Q, V, scale=scale, causal=False, mask=seen)
    return softmax_weights(Q, V, scale, seen, xp) @ V


def attention_weights(
    V: ArrayT, *, scale: float = 1.0, causal: bool = False, mask: ArrayT | None = None, xp: Namespace = None
) -> ArrayT:
    r"""Attention matrix that :func:`ssa` applies, :math:`\operatorname{softmax}_{\text{rows}}(s\, V V^\top)`.

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
    n = V.shape[-2]
    check_mask(mask, (n, n), xp=xp)
    if causal:
        below = not_after(0, n, V, xp)
        mask = below if mask is None else mask & below
    A = widen(V, xp)
    return cast_like(softmax_weights(A, A, scale, mask, xp), V, xp)


def mssa(
    Z: ArrayT,
    U: ArrayT,
    *,
    out: ArrayT | None = None,
    bias: ArrayT | None = None,
    scale: float = 1.0,
    causal: bool = False,
    mask: ArrayT | None = None,
    rows: int | None = None,
    xp: Namespace = None,
) -> ArrayT:
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
    whole = mask is None and rows is None and is_torch(Z)  # then NaN and infinity of Z or U make a NaN in the result
    check_tokens(Z, finite=not whole, xp=xp)
    check_bases(U, Z.shape[-1], finite=not whole, xp=xp)
    if out is not None or bias is not None:
        _check_output(out, bias, U, xp)
    scale = check_nonnegative(scale, "scale")
    if not whole:
        check_mask(mask, (Z.shape[-2], Z.shape[-2]), xp=xp)
        _check_rows(rows, Z.shape[-2])
    A, bases, W, b = widened(Z, U, out, bias, xp=xp)
    attended = bare_mssa(A, bases, W, b, scale, causal, mask, rows, xp)
    if whole and not is_free_of_nan(attended):  # cheaper than to read Z and U
        check_tokens(Z, xp=xp)
        check_bases(U, xp=xp)
    return attended if A is Z else cast_like(attended, Z, xp)


def bare_mssa(
    Z: ArrayT,
    U: ArrayT,
    out: ArrayT | None,
    bias: ArrayT | None,
    scale: float,
    causal: bool,
    mask: ArrayT | None,
    rows: int | None,
    xp: Namespace,
) -> ArrayT:
    """Formula of :func:`mssa`."""
    if mask is not None and mask.ndim > 2:
        mask = mask[..., None, :, :]  # (..., 1, n, n), the same for every head
    wide = merge_heads(U, xp)  # (d, K·p), for both products
    V = split_heads(Z @ wide, U.shape[-3], U.shape[-1], xp)  # (..., K, n, p)
    heads = bare_ssa(V, scale, causal, mask, rows, xp)  # (..., K, rows, p)
    lifted = merge_heads(heads, xp) @ (wide if out is None else merge_heads(out, xp)).mT
    return lifted if bias is None else lifted + bias


def _check_output(out: Array | None, bias: Array | None, U: Array, xp: Namespace) -> None:
    """Refuse output maps or a bias that do not fit the bases."""
    if out is not None:
        check_bases(out, name="out", xp=xp)
        if tuple(out.shape[-3:]) != tuple(U.shape[-3:]):
            raise ValueError(f"out must have shape (K, d, p) of U, {tuple(U.shape[-3:])}; got {tuple(out.shape)}")
    if bias is not None:
        check_array(bias, "bias", ndim=1, xp=xp)
        if bias.shape[-1] != U.shape[-2]:
            raise ValueError(f"bias must have shape (d,) with d={U.shape[-2]}; got {tuple(bias.shape)}")


def thresholded_ssa(V: ArrayT, *, threshold: float, scale: float = 1.0, xp: Namespace = None) -> ArrayT:
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
    check_array(V, "V", xp=xp)
    threshold = check_positive(threshold, "threshold")
    scale = check_nonnegative(scale, "scale")
    return cast_like(_thresholded(widen(V, xp), threshold, scale, xp), V, xp)


def _thresholded(V: ArrayT, threshold: float, scale: float, xp: Namespace) -> ArrayT:
    above = softmax_weights(V, V, scale, None, xp) > threshold
    return threshold * (xp.astype(above, V.dtype) @ V)


def thresholded_mssa(Z: ArrayT, U: ArrayT, *, threshold: float, scale: float = 1.0, xp: Namespace = None) -> ArrayT:
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
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    threshold = check_positive(threshold, "threshold")
    scale = check_nonnegative(scale, "scale")
    bases = widen(U, xp)
    V = bare_project(widen(Z, xp), bases, xp)
    return cast_like(bare_lift(_thresholded(V, threshold, scale, xp), bases, xp), Z, xp)


def log_slope(x: ArrayT) -> ArrayT:
    """Slope 1/(1 + x) of f(x) = log(1 + x), the one of the released networks."""
    return 1.0 / (1.0 + x)


def tssa(
    Z: ArrayT,
    U: ArrayT,
    *,
    temperature: float = 1.0,
    slope: Callable[[ArrayT], ArrayT] = log_slope,
    xp: Namespace = None,
) -> ArrayT:
    r"""Token-statistics self-attention, the gradient step of the variational compression bound.

    .. math:: -\tfrac1n \sum_k \operatorname{diag}(\pi_k) V_k D_k U_k^\top,\qquad
              D_k = \operatorname{diag} f'\!\Bigl(\frac{\pi_k^\top V_k^{\circ 2}}{\langle \pi_k, 1 \rangle}\Bigr)

    with π the membership of :func:`subspace_membership`.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        temperature: η > 0 of the membership, in squared units of Z.
        slope: f′ of a concave f with f(0) = 0; 1/(1 + x) by default.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d); Z + τ times it is the layer.

    Raises:
        TypeError: Z or U is not a real floating array.
        ValueError: U without the d of Z, temperature not positive, NaN or infinity.

    Source: [TOST] (13)-(14), from the variational form of [VMCR2].
    """
    xp = namespace(Z, U, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    temperature = check_positive(temperature, "temperature")
    bases = widen(U, xp)
    V = bare_project(widen(Z, xp), bases, xp)  # (..., K, n, p)
    mass = bare_membership(V, temperature, xp)[..., None]  # (..., K, n, 1)
    total = xp.sum(mass, axis=-2, keepdims=True)
    moments = xp.sum(mass * V**2, axis=-2, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))
    return cast_like(bare_lift(mass * V * slope(moments), bases, xp) / -Z.shape[-2], Z, xp)


def tssa_heads(
    V: ArrayT,
    temperature: ArrayT,
    *,
    causal: bool = False,
    offset: ArrayT | None = None,
    mask: ArrayT | None = None,
    xp: Namespace = None,
) -> ArrayT:
    r"""Token-statistics attention inside the heads, as the released networks run it.

    Tokens are normalized over the token axis, the membership is a softmax over heads, the factor 1/n is dropped:

    .. math:: -\Pi \odot V \oslash (1 + m),\qquad
              m_k = \frac{\sum_i \Pi_{ki} V_{ki}^{\circ 2}}{\sum_i \Pi_{ki} + 10^{-8}}

    Args:
        V: coordinates of shape (..., K, n, p).
        temperature: one number per head, of shape (K, 1).
        causal: replace every sum over tokens by a running sum, so token i depends on tokens j ≤ i only.
        offset: numbers of shape (K, n, 1) added to the normalized squares, causal networks only.
        mask: boolean of shape (..., n); False removes a token from all statistics and gives zeros there.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., K, n, p).

    Raises:
        TypeError: V is not a real floating array, mask not boolean.
        ValueError: V with fewer than three axes, mask of another length, NaN or infinity.

    Source: [TOST], released vision and language forms.
    """
    xp = namespace(V, temperature, offset, mask, xp=xp)
    check_array(V, "V", ndim=3, xp=xp)
    _check_columns(temperature, "temperature", V, 1, xp)
    _check_columns(offset, "offset", V, V.shape[-2], xp)
    check_mask(mask, (V.shape[-2],), xp=xp)
    shift = None if offset is None else widen(offset, xp)
    return cast_like(bare_tssa_heads(widen(V, xp), widen(temperature, xp), causal, shift, mask, xp), V, xp)


_FLOOR = 1e-12  # of the squared norms over tokens
_EMPTY = 1e-8  # added to the mass of a head


def bare_tssa_heads(
    V: ArrayT, temperature: ArrayT, causal: bool, offset: ArrayT | None, mask: ArrayT | None, xp: Namespace
) -> ArrayT:
    """Formula of :func:`tssa_heads`."""
    mass, squares, sums = bare_tssa_mass(V, temperature, causal, offset, mask, xp)
    moments = sums(mass * squares, xp) / (sums(mass, xp) + _EMPTY)
    return -mass * V / (1.0 + moments)


def bare_tssa_mass(
    V: ArrayT, temperature: ArrayT, causal: bool, offset: ArrayT | None, mask: ArrayT | None, xp: Namespace
) -> tuple[ArrayT, ArrayT, Callable[[ArrayT, Namespace], ArrayT]]:
    """Memberships Π (..., K, n, 1) of :func:`tssa_heads`, the squares they weigh, and how they are summed."""
    keep = None if mask is None else xp.astype(mask, V.dtype)[..., None, :, None]  # (..., 1, n, 1)
    squares = V**2 if keep is None else V**2 * keep
    sums = _running_sum if causal else _total
    share = squares / xp.maximum(sums(squares, xp), xp.full_like(V[..., :1, :], _FLOOR))
    if offset is not None:
        share = share + offset
    mass = softmax(xp.sum(share, axis=-1) * temperature, axis=-2, xp=xp)[..., None]  # (..., K, n, 1)
    return mass if keep is None else mass * keep, squares, sums


def _check_columns(x: Array | None, name: str, V: Array, n: int, xp: Namespace) -> None:
    """Refuse anything but one number per head, or one per head and token."""
    if x is None:
        return
    check_array(x, name, xp=xp)
    wanted = (V.shape[-3], 1) if n == 1 else (V.shape[-3], n, 1)
    if tuple(x.shape[-len(wanted) :]) != wanted:
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(x.shape)}")


def _total(x: ArrayT, xp: Namespace) -> ArrayT:
    return xp.sum(x, axis=-2, keepdims=True)


def _running_sum(x: ArrayT, xp: Namespace) -> ArrayT:
    return xp.cumulative_sum(x, axis=-2)


def stretch_means(V: ArrayT, *, count: int, mask: ArrayT | None = None, xp: Namespace = None) -> ArrayT:
    r"""Means of ``count`` equal stretches of a sequence of tokens.

    Token i of n falls into stretch ⌊i · count / n⌋; padding tokens do not count. A stretch without tokens is zero.

    Args:
        V: coordinates of shape (..., n, p).
        count: number of stretches, ≥ 1.
        mask: boolean of shape (..., n), broadcastable over the leading axes of V; False leaves a token out.
        xp: array namespace; looked up when None.

    Returns:
        Means of shape (..., count, p).

    Raises:
        TypeError: V is not a real floating array, count not an integer, mask not boolean.
        ValueError: count below one, a mask of another length, NaN or infinity.

    Source: the pooled representatives of [CBSA], along the sequence instead of over an image grid.

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.stretch_means(np.asarray([[1.0], [3.0], [5.0], [7.0]]), count=2).ravel().tolist()
        [2.0, 6.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_count(count, "count")
    check_mask(mask, (V.shape[-2],), xp=xp)
    return cast_like(bare_stretch_means(widen(V, xp), count, mask, xp), V, xp)


def bare_stretch_means(V: ArrayT, count: int, mask: ArrayT | None, xp: Namespace) -> ArrayT:
    """Formula of :func:`stretch_means`."""
    n = V.shape[-2]
    place = xp.arange(n, device=device(V))
    stretch = place * count // n  # (n,)
    if mask is not None:
        real = xp.astype(mask, place.dtype)
        total = xp.sum(real, axis=-1, keepdims=True)
        rank = (xp.cumulative_sum(real, axis=-1) - 1) * count // xp.where(total > 0, total, xp.ones_like(total))
        stretch = xp.where(mask, rank, xp.full_like(rank, -1))  # (..., n)
    member = stretch[..., None, :] == xp.arange(count, device=device(V))[:, None]  # (..., count, n)
    return _means(member, V, xp)


def grid_means(
    V: ArrayT, *, grid: tuple[int, int], count: tuple[int, int], mask: ArrayT | None = None, xp: Namespace = None
) -> ArrayT:
    r"""Means over the windows of a coarse grid laid on a grid of tokens.

    Window i of c along a side of s tokens covers the places :math:`\lfloor i s / c \rfloor` to
    :math:`\lceil (i + 1) s / c \rceil - 1`: windows overlap where c does not divide s, and repeat where c > s. Padding
    tokens do not count; a window without tokens is zero.

    Args:
        V: coordinates of shape (..., H · W, p), tokens in reading order.
        grid: rows H and columns W of tokens.
        count: rows and columns of windows.
        mask: boolean of shape (..., H · W), broadcastable over the leading axes of V; False leaves a token out.
        xp: array namespace; looked up when None.

    Returns:
        Means of shape (..., rows · columns, p), windows in reading order.

    Raises:
        TypeError: V is not a real floating array, a count not an integer, mask not boolean.
        ValueError: a count below one, another number of tokens than the grid has, NaN or infinity.

    Source: the pooled representatives of [CBSA] over an image.

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.grid_means(np.arange(9.0)[:, None], grid=(3, 3), count=(1, 3)).ravel().tolist()
        [3.0, 4.0, 5.0]
    """
    xp = namespace(V, mask, xp=xp)
    check_array(V, "V", xp=xp)
    for name, pair in {"grid": grid, "count": count}.items():
        for side in pair:
            check_count(side, name)
    if V.shape[-2] != grid[0] * grid[1]:
        raise ValueError(f"V must have one row for each of {grid[0]} x {grid[1]} tokens; got {V.shape[-2]}")
    check_mask(mask, (V.shape[-2],), xp=xp)
    return cast_like(bare_grid_means(widen(V, xp), grid, count, mask, xp), V, xp)


def bare_grid_means(
    V: ArrayT, grid: tuple[int, int], count: tuple[int, int], mask: ArrayT | None, xp: Namespace
) -> ArrayT:
    """Formula of :func:`grid_means`."""
    (H, W), (h, w) = grid, count
    down, across = (_windows(side, windows, V, xp) for side, windows in ((H, h), (W, w)))
    member = xp.reshape(down[:, None, :, None] & across[None, :, None, :], (h * w, H * W))
    return _means(member if mask is None else member & mask[..., None, :], V, xp)


def _windows(side: int, count: int, like: Array, xp: Namespace) -> Array:
    """Which of ``side`` places belong to which of ``count`` windows, boolean (count, side)."""
    window = xp.arange(count, device=device(like))[:, None]
    place = xp.arange(side, device=device(like))
    return (place >= window * side // count) & (place < ((window + 1) * side + count - 1) // count)


def _means(member: Array, V: ArrayT, xp: Namespace) -> ArrayT:
    """Mean of the tokens of each row of a boolean table (..., m, n); zero where it has none."""
    weights = xp.astype(member, V.dtype)
    size = xp.sum(weights, axis=-1, keepdims=True)
    return (weights / xp.where(size > 0, size, xp.ones_like(size))) @ V


def contract_broadcast(
    V: ArrayT,
    representatives: ArrayT,
    *,
    step: ArrayT | float = 1.0,
    scale: float = 1.0,
    mask: ArrayT | None = None,
    xp: Namespace = None,
) -> ArrayT:
    r"""Contract-and-broadcast attention inside the heads, linear in the number of tokens.

    .. math:: A = \operatorname{softmax}_{\text{rows}}(s\, Q V^\top), \qquad
              Q' = Q + \rho\, A V, \qquad \text{out} = A^\top\, \mathrm{SSA}(Q')

    Args:
        V: coordinates of shape (..., n, p).
        representatives: Q of shape (..., m, p), such as :func:`stretch_means` or :func:`grid_means`.
        step: ρ, a number or an array that broadcasts over Q.
        scale: s ≥ 0 of both softmaxes.
        mask: boolean, broadcastable to (..., m, n); False hides a token from the representatives and them from it.
        xp: array namespace; looked up when None.

    Returns:
        Coordinates of shape (..., n, p).

    Raises:
        TypeError: V or Q is not a real floating array, mask not boolean.
        ValueError: scale negative, Q without the p of V, mask of another size, NaN or infinity.

    Source: [CBSA]: representatives are extracted and contracted, the contraction is broadcast.
    """
    xp = namespace(V, representatives, mask, xp=xp)
    check_array(V, "V", xp=xp)
    check_array(representatives, "representatives", xp=xp)
    scale = check_nonnegative(scale, "scale")
    if representatives.shape[-1] != V.shape[-1]:
        raise ValueError(
            f"representatives must have shape (..., m, p) with p={V.shape[-1]}; got {tuple(representatives.shape)}"
        )
    check_mask(mask, (representatives.shape[-2], V.shape[-2]), xp=xp)
    move = step if isinstance(step, (int, float)) else widen(step, xp)
    return cast_like(bare_contract_broadcast(widen(V, xp), widen(representatives, xp), move, scale, mask, xp), V, xp)


def bare_contract_broadcast(
    V: ArrayT, representatives: ArrayT, step: ArrayT | float, scale: float, mask: ArrayT | None, xp: Namespace
) -> ArrayT:
    """Formula of :func:`contract_broadcast`."""
    A = softmax_weights(representatives, V, scale, mask, xp)  # (..., m, n)
    moved = representatives + step * (A @ V)
    return A.mT @ bare_ssa(moved, scale, False, None, None, xp)
