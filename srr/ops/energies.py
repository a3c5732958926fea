"""What a layer that provably descends is made of: the sphere of layer norm, a bound of a norm, an energy of attention.

A step Z ↦ P(Z − κ∇f(Z)) onto a set S of tokens of fixed norms lowers f whenever κ ≤ 1/L and ∇f is L-Lipschitz: over S
the quadratic bound of f at Z is least at the projection P of the gradient step, because all of S has one norm. So all
that a layer needs is P, a bound L that is cheap and differentiable, and an f worth descending.
"""

from __future__ import annotations

from srr._array.checks import check_array, check_bases, check_count, check_mask, check_same_dtype, check_tokens
from srr._array.namespace import (
    ArrayT,
    Namespace,
    cast_like,
    epsilon,
    is_concrete,
    is_torch,
    namespace,
    scaled_dot_product_attention,
    widen,
)
from srr.ops.attention import not_after, softmax_weights
from srr.ops.subspaces import bare_lift, bare_project


def centered_sphere(Z: ArrayT, *, radius: ArrayT | float | None = None, xp: Namespace = None) -> ArrayT:
    r"""Nearest points of the set that layer norm maps to: tokens of mean zero and given norm.

    .. math:: \operatorname*{argmin}_{\bar y = 0,\ \lVert y \rVert = r} \lVert y - z \rVert
              = r\,\frac{z - \bar z}{\lVert z - \bar z \rVert}

    Args:
        Z: tokens of shape (..., n, d).
        radius: r ≥ 0, a number or an array that broadcasts against (..., n, 1); √d when None, the norm that layer norm
            gives.
        xp: array namespace; looked up when None.

    Returns:
        Array of shape (..., n, d). A constant token, to which all points are equally near, goes to the one along
        (1, −1, 0, …).

    Raises:
        TypeError: Z is not a real floating array.
        ValueError: d = 1, where the set is empty, NaN or infinity in Z, a negative radius.

    Source: the projection onto an intersection of a sphere with a subspace through its center.

    Example:
        >>> import numpy as np, srr
        >>> srr.ops.centered_sphere(np.asarray([[5.0, 1.0]]), radius=1.0).round(4).tolist()
        [[0.7071, -0.7071]]
    """
    xp = namespace(Z, xp=xp)
    check_tokens(Z, xp=xp)
    if Z.shape[-1] < 2:
        raise ValueError(f"Z must have d >= 2, a centered token of one coordinate is zero; got {tuple(Z.shape)}")
    if radius is None:
        radius = Z.shape[-1] ** 0.5
    if isinstance(radius, int | float):
        if not radius >= 0:
            raise ValueError(f"radius must be >= 0; got {radius}")
        return cast_like(bare_centered_sphere(widen(Z, xp), radius, xp), Z, xp)
    check_array(radius, "radius", ndim=1, xp=xp)
    return cast_like(bare_centered_sphere(widen(Z, xp), widen(radius, xp), xp), Z, xp)


def bare_centered_sphere(Z: ArrayT, radius: ArrayT | float, xp: Namespace) -> ArrayT:
    """Formula of :func:`centered_sphere`; the derivative at a constant token is zero."""
    centered = Z - xp.mean(Z, axis=-1, keepdims=True)
    size = xp.max(xp.abs(centered), axis=-1, keepdims=True)
    # below the rounding of the mean nothing is left of a direction
    flat = size <= 2 * epsilon(Z.dtype, xp) * xp.max(xp.abs(Z), axis=-1, keepdims=True)
    scaled = centered / xp.where(flat, xp.ones_like(size), size)
    square = xp.sum(scaled * scaled, axis=-1, keepdims=True)
    unit = scaled / xp.sqrt(xp.where(flat, xp.ones_like(square), square))
    return radius * xp.where(flat, _first_difference(Z, xp), unit)


def _first_difference(Z: ArrayT, xp: Namespace) -> ArrayT:
    """The unit token (1, −1, 0, …)/√2."""
    place = xp.cumulative_sum(xp.ones_like(Z[..., :1, :]), axis=-1)
    return (xp.astype(place == 1, Z.dtype) - xp.astype(place == 2, Z.dtype)) * 0.5**0.5


def spectral_bound(M: ArrayT, *, squarings: int = 3, xp: Namespace = None) -> ArrayT:
    r"""Upper bound of the spectral norm of symmetric positive semidefinite matrices, without an eigenvalue problem.

    .. math:: \lVert M \rVert_2 \le \bigl(\operatorname{tr} M^{2^{s+1}}\bigr)^{2^{-s-1}}
              \le d^{\,2^{-s-1}} \lVert M \rVert_2

    Three squarings of a small matrix are cheap, have a derivative everywhere but at zero, and cost at most a factor
    d^{1/16}. Each square is scaled to norm one, so nothing overflows or vanishes.

    Args:
        M: symmetric positive semidefinite matrices of shape (..., d, d).
        squarings: s ≥ 0.
        xp: array namespace; looked up when None.

    Returns:
        Bounds of shape (...), rounded up by 8d machine epsilons so that rounding does not take them below the norm.

    Raises:
        TypeError: M is not a real floating array.
        ValueError: M is not square, NaN or infinity, squarings negative.

    Source: the power mean of the eigenvalues lies above the largest and within d^{1/q} of it.

    Example:
        >>> import numpy as np, srr
        >>> bool(1.0 <= srr.ops.spectral_bound(np.diag([1.0, 0.5])) < 1.0001)
        True
    """
    xp = namespace(M, xp=xp)
    check_array(M, "M", ndim=2, xp=xp)
    check_count(squarings, "squarings", least=0)
    if M.shape[-1] != M.shape[-2]:
        raise ValueError(f"M must be square matrices (..., d, d); got shape {tuple(M.shape)}")
    return cast_like(bare_spectral_bound(widen(M, xp), squarings, xp), M, xp)


def bare_spectral_bound(M: ArrayT, squarings: int, xp: Namespace) -> ArrayT:
    """Formula of :func:`spectral_bound`."""
    # M = s₀ M₀, M₀² = s₁ M₁, …: the norm is at most s₀ s₁^½ s₂^¼ … with sⱼ the Frobenius norm of the j-th square.
    top = xp.max(xp.abs(M), axis=(-2, -1))
    zero, bound, share = top == 0, xp.ones_like(top), 1.0
    for square in range(squarings + 1):
        size = xp.where(zero, xp.ones_like(bound), _frobenius(M, xp))
        bound = bound * size**share
        if square < squarings:
            M = M / size[..., None, None]
            M, share = M @ M, share / 2
    return xp.where(zero, xp.zeros_like(bound), bound) * (1 + 8 * M.shape[-1] * epsilon(M.dtype, xp))


def _frobenius(M: ArrayT, xp: Namespace) -> ArrayT:
    """‖M‖_F without overflow, zero with derivative zero at M = 0."""
    top = xp.max(xp.abs(M), axis=(-2, -1), keepdims=True)
    zero = top == 0
    scaled = M / xp.where(zero, xp.ones_like(top), top)
    square = xp.sum(scaled * scaled, axis=(-2, -1), keepdims=True)
    return xp.where(zero, top, top * xp.sqrt(xp.where(zero, xp.ones_like(square), square)))[..., 0, 0]


def softmax_energy(
    Z: ArrayT,
    U: ArrayT,
    Y: ArrayT,
    weights: ArrayT,
    scales: ArrayT,
    *,
    causal: bool = False,
    mask: ArrayT | None = None,
    xp: Namespace = None,
) -> ArrayT:
    r"""Energy whose gradient is softmax attention over given keys.

    .. math:: E(Z; Y) = \sum_k \frac{\sigma_k}{s_k} \sum_i \log \sum_j \exp\bigl(s_k \langle U_k^\top z_i, y_{kj}
              \rangle\bigr)

    It is convex in Z where σ_k ≥ 0 and concave where σ_k ≤ 0. A step Z − ∇E with σ < 0 adds attention, as the released
    networks do.

    Args:
        Z: tokens of shape (..., n, d).
        U: bases of shape (K, d, p).
        Y: keys of every head, shape (..., K, m, p); they do not move with Z.
        weights: σ, shape (K,), of either sign.
        scales: s > 0, shape (K,).
        causal: whether token i sees the keys up to i only; m = n then.
        mask: boolean, broadcasts against (..., n, m), True where a token sees a key.
        xp: array namespace; looked up when None.

    Returns:
        Energy of shape (...). A token that sees no key adds nothing.

    Raises:
        TypeError: an argument is not a real floating array, or their dtypes differ.
        ValueError: shapes that do not fit, a scale that is not positive, NaN or infinity.

    Source: the log-sum-exp whose gradient is the softmax of [CRATE] (11), with keys held fixed.
    """
    xp, mask = _check_energy(Z, U, Y, weights, scales, causal, mask, xp)
    found = bare_softmax_energy(
        widen(Z, xp), widen(U, xp), widen(Y, xp), widen(weights, xp), widen(scales, xp), mask, xp
    )
    return cast_like(found, Z, xp)


def bare_softmax_energy(
    Z: ArrayT, U: ArrayT, Y: ArrayT, weights: ArrayT, scales: ArrayT, mask: ArrayT | None, xp: Namespace
) -> ArrayT:
    """Formula of :func:`softmax_energy`; the mask has an axis for the heads where it has one for the batch."""
    V = bare_project(Z, U, xp)  # (..., K, n, p)
    scores = (V @ Y.mT) * scales[:, None, None]  # (..., K, n, m)
    if mask is not None:
        scores = xp.where(mask, scores, xp.full_like(scores, -float("inf")))
    top = xp.max(scores, axis=-1, keepdims=True)
    blind = ~xp.isfinite(top)
    mass = xp.sum(xp.exp(scores - xp.where(blind, xp.zeros_like(top), top)), axis=-1, keepdims=True)
    each = xp.where(blind, xp.zeros_like(top), top + xp.log(xp.where(blind, xp.ones_like(mass), mass)))
    heads = xp.sum(each[..., 0], axis=-1)  # (..., K)
    return xp.sum(weights / scales * heads, axis=-1)


def softmax_energy_grad(
    Z: ArrayT,
    U: ArrayT,
    Y: ArrayT,
    weights: ArrayT,
    scales: ArrayT,
    *,
    causal: bool = False,
    mask: ArrayT | None = None,
    xp: Namespace = None,
) -> ArrayT:
    r"""Gradient of :func:`softmax_energy` in the tokens; same arguments.

    .. math:: \nabla E = \sum_k \sigma_k\, \mathrm{softmax}(s_k V_k Y_k^\top)\, Y_k U_k^\top

    Returns:
        Array of shape (..., n, d).

    Source: [CRATE] (11)-(12) with queries from the tokens, keys = values = Y and the output map U.
    """
    xp, mask = _check_energy(Z, U, Y, weights, scales, causal, mask, xp)
    found = bare_softmax_energy_grad(
        widen(Z, xp), widen(U, xp), widen(Y, xp), widen(weights, xp), widen(scales, xp), mask, xp
    )
    return cast_like(found, Z, xp)


def bare_softmax_energy_grad(
    Z: ArrayT, U: ArrayT, Y: ArrayT, weights: ArrayT, scales: ArrayT, mask: ArrayT | None, xp: Namespace
) -> ArrayT:
    """Formula of :func:`softmax_energy_grad`; the tokens may be the first or the last of those that gave the keys."""
    V = bare_project(Z, U, xp) * scales[:, None, None]
    if is_torch(Y):
        attended = scaled_dot_product_attention(V, Y, scale=1.0, causal=False, mask=mask)  # (..., K, n, p)
    else:
        attended = softmax_weights(V, Y, 1.0, mask, xp) @ Y
    return bare_lift(attended * weights[:, None, None], U, xp)


def _check_energy(
    Z: ArrayT,
    U: ArrayT,
    Y: ArrayT,
    weights: ArrayT,
    scales: ArrayT,
    causal: bool,
    mask: ArrayT | None,
    xp: Namespace,
) -> tuple[Namespace, ArrayT | None]:
    xp = namespace(Z, U, Y, weights, scales, mask, xp=xp)
    check_tokens(Z, xp=xp)
    check_bases(U, Z.shape[-1], xp=xp)
    check_array(Y, "Y", ndim=3, xp=xp)
    check_same_dtype(Z=Z, U=U, Y=Y, weights=weights, scales=scales)
    K, p = U.shape[-3], U.shape[-1]
    if Y.shape[-3] != K or Y.shape[-1] != p:
        raise ValueError(f"Y must have shape (..., K, m, p) with K={K} and p={p}; got {tuple(Y.shape)}")
    for name, given in {"weights": weights, "scales": scales}.items():
        check_array(given, name, ndim=1, xp=xp)
        if tuple(given.shape) != (K,):
            raise ValueError(f"{name} must have shape (K,) with K={K}; got {tuple(given.shape)}")
    if is_concrete(scales) and bool(xp.any(scales <= 0)):
        raise ValueError("scales must be > 0; got one that is not")
    n, m = Z.shape[-2], Y.shape[-2]
    check_mask(mask, (n, m), xp=xp)
    if causal:
        below = not_after(0, n, Z, xp)
        mask = below if mask is None else mask & below
    if mask is not None and mask.ndim > 2:
        mask = mask[..., None, :, :]  # the same for every head
    return xp, mask
