"""Token-statistics self-attention: compression by second moments, linear in the number of tokens."""

from __future__ import annotations

from collections.abc import Callable

from srr._array import Array, Namespace, namespace, softmax
from srr._checks import check_array, check_positive
from srr.ops.geometry import subspace_membership
from srr.ops.subspaces import lift, project

_FLOOR = 1e-12  # of the squared norms over tokens
_EMPTY = 1e-8  # added to the mass of a head


def log_slope(x: Array) -> Array:
    """Slope 1/(1 + x) of f(x) = log(1 + x), the one of the released networks."""
    return 1.0 / (1.0 + x)


def tssa(
    Z: Array,
    U: Array,
    *,
    temperature: float = 1.0,
    slope: Callable[[Array], Array] = log_slope,
    xp: Namespace = None,
) -> Array:
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
    temperature = check_positive(temperature, "temperature")
    V = project(Z, U, xp=xp)  # (..., K, n, p)
    mass = subspace_membership(Z, U, temperature=temperature, xp=xp).mT[..., None]  # (..., K, n, 1)
    total = xp.sum(mass, axis=-2, keepdims=True)
    moments = xp.sum(mass * V**2, axis=-2, keepdims=True) / xp.where(total > 0, total, xp.ones_like(total))
    return -lift(mass * V * slope(moments), U, xp=xp) / Z.shape[-2]


def tssa_heads(
    V: Array,
    temperature: Array,
    *,
    causal: bool = False,
    offset: Array | None = None,
    mask: Array | None = None,
    xp: Namespace = None,
) -> Array:
    r"""Token-statistics attention inside the heads, as the released networks run it.

    Tokens are normalised over the token axis, the membership is a softmax over heads, the factor 1/n is dropped:

    .. math:: -\Pi \odot V \oslash (1 + m),\qquad
              m_k = \frac{\sum_i \Pi_{ki} V_{ki}^{\circ 2}}{\sum_i \Pi_{ki} + 10^{-8}}

    Args:
        V: coordinates of shape (..., K, n, p).
        temperature: one number per head, of shape (K, 1).
        causal: replace every sum over tokens by a running sum, so token i depends on tokens j ≤ i only.
        offset: numbers of shape (K, n, 1) added to the normalised squares, causal networks only.
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
    keep = _keep(mask, V, xp)
    squares = V**2 if keep is None else V**2 * keep
    sums = _running_sum if causal else _total
    share = squares / xp.maximum(sums(squares, xp), xp.full_like(V[..., :1, :], _FLOOR))
    if offset is not None:
        share = share + offset
    mass = softmax(xp.sum(share, axis=-1) * temperature, axis=-2, xp=xp)[..., None]  # (..., K, n, 1)
    if keep is not None:
        mass = mass * keep
    moments = sums(mass * squares, xp) / (sums(mass, xp) + _EMPTY)
    return -mass * V / (1.0 + moments)


def _check_columns(x: Array | None, name: str, V: Array, n: int, xp: Namespace) -> None:
    """Refuse anything but one number per head, or one per head and token."""
    if x is None:
        return
    check_array(x, name, xp=xp)
    wanted = (V.shape[-3], 1) if n == 1 else (V.shape[-3], n, 1)
    if tuple(x.shape[-len(wanted) :]) != wanted:
        raise ValueError(f"{name} must have shape {wanted}; got {tuple(x.shape)}")


def _keep(mask: Array | None, V: Array, xp: Namespace) -> Array | None:
    """Mask of shape (..., n) as numbers (..., 1, n, 1)."""
    if mask is None:
        return None
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"mask must be boolean, True for tokens to keep; got {mask.dtype}")
    if mask.ndim < 1 or mask.shape[-1] != V.shape[-2]:
        raise ValueError(f"mask must have shape (..., n) with n={V.shape[-2]}; got {tuple(mask.shape)}")
    return xp.astype(mask, V.dtype)[..., None, :, None]


def _total(x: Array, xp: Namespace) -> Array:
    return xp.sum(x, axis=-2, keepdims=True)


def _running_sum(x: Array, xp: Namespace) -> Array:
    return xp.cumulative_sum(x, axis=-2)
