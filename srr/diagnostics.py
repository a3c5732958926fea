"""What the layers of a network do to its tokens: coding rates, sparsity and signal-to-noise, half-step by half-step.

Every rate is reported twice. ``raw`` measures the tokens as they are under the bases as they are;
``normalized`` scales each token to unit norm and makes the bases of each head orthonormal first, so that it
depends on directions alone. The two disagree in sign for the released attention step: raw rates rise,
normalized rates fall.

A rate under a layer's own bases compares the places of that layer alone. What compares places of different layers is
``common``: the normalized rate under the bases of the first layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np

from srr._array.cards import card, lines
from srr._array.checks import check_positive, check_tokens
from srr._array.namespace import Array, DType, is_torch, namespace, to_numpy
from srr.ops.rates import coding_rate, subspace_coding_rate
from srr.ops.subspaces import orthonormalize, project, snr

if TYPE_CHECKING:
    from torch.nn import Module

Step: TypeAlias = Callable[[Array], Array]
"""A function of the tokens; where it has methods ``compress`` and ``sparsify``, its two halves are measured."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]
POSITIONS = ("input", "compressed", "sparsified")
"""The three places of a layer: Z^ℓ, Z^{ℓ+1/2}, Z^{ℓ+1}."""

__all__ = ["layer_trace", "LayerTrace", "ReleasedTrace"]


class LayerTrace(NamedTuple):
    """Measures of L layers at the three places of each, Z^ℓ, Z^{ℓ+1/2} and Z^{ℓ+1}, every array (L, 3), means
    over the batch. The last place of a layer is the first of the next: measures that do not know the layer agree there,
    the two under U_ℓ do not.

    Attributes:
        compression_raw: R^c(Z; U_ℓ) of the tokens as they are, in nats.
        compression_normalized: R^c of unit-norm tokens under the orthonormalized U_ℓ, in nats.
        compression_common: R^c of unit-norm tokens under the orthonormalized bases of the first layer, in nats.
        rate_raw: R(Z) of the tokens as they are, in nats.
        rate_normalized: R of unit-norm tokens, in nats.
        l1_normalized: mean ℓ1 norm of a unit-norm token, between 1 and √d.
        sparsity: share of coordinates that are not zero.
        snr: energy of each token on the subspace of its label over its energy off it; NaN without labels.
        dictionary_norm: (L,) ‖D_ℓ‖₂², to be compared with 1/η; NaN for a layer without a dictionary.
    """

    compression_raw: Numbers
    compression_normalized: Numbers
    compression_common: Numbers
    rate_raw: Numbers
    rate_normalized: Numbers
    l1_normalized: Numbers
    sparsity: Numbers
    snr: Numbers
    dictionary_norm: Numbers

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.sparsity)

    def rows(self) -> list[dict[str, float | int | str]]:
        """One dictionary a layer and position, ready for a table or a CSV file."""
        names = self._fields[:-1]
        return [
            {"layer": layer, "position": POSITIONS[at], **{n: float(getattr(self, n)[layer, at]) for n in names}}
            for layer in range(self.depth)
            for at in range(3)
        ]

    def __repr__(self) -> str:
        return f"LayerTrace({', '.join(f'{name} {value}' for name, value in self._summary().items())})"

    def _repr_html_(self) -> str:
        """The same for a notebook, with the measures over depth that do not change with a layer's own bases."""
        names = {
            "R^c under the first bases, after each layer": "compression_common",
            "R of unit tokens": "rate_normalized",
            "share of non-zeros": "sparsity",
        }
        curves = {said: getattr(self, name)[:, 2] for said, name in names.items()}
        return card("LayerTrace", self._summary(), lines(curves))

    def _summary(self) -> dict[str, str]:
        ends = {
            "R^c under the first bases": (self.compression_common, "{:.4g} to {:.4g} nats"),
            "R of unit tokens": (self.rate_normalized, "{:.4g} to {:.4g} nats"),
            "non-zeros": (self.sparsity, "{:.1%} to {:.1%}"),
        }
        return {"layers": str(self.depth), **{k: form.format(v[0, 0], v[-1, 2]) for k, (v, form) in ends.items()}}


class ReleasedTrace(NamedTuple):
    """What the released evaluation reports of L layers, every array (L,).

    Attributes:
        rate: mean over images of R^c, the sum over heads of the rates of Uᵀ LN(Z^ℓ) before attention, every head of
            every token at unit norm, in nats.
        rate_deviation: standard deviation of it over images, with B − 1; 0 for one image.
        sparsity: mean over images of the share of coordinates of Z^{ℓ+1} that are not zero.
        sparsity_deviation: standard deviation of it over images.
    """

    rate: Numbers
    rate_deviation: Numbers
    sparsity: Numbers
    sparsity_deviation: Numbers


class _Places(NamedTuple):
    """Tokens at the three places of one layer, its bases, and its dictionary when it has one."""

    tokens: tuple[Array, Array, Array]
    U: Array
    D: Array | None


@overload
def layer_trace(
    model: Module | Sequence[Step],
    inputs: Array,
    *,
    eps: float = 0.1,
    U: Array | Sequence[Array] | None = None,
    labels: Array | None = None,
    core_dtype: DType = None,
    measure: Literal["layers"] = "layers",
) -> LayerTrace: ...


@overload
def layer_trace(
    model: Module | Sequence[Step],
    inputs: Array,
    *,
    eps: float = 0.1,
    core_dtype: DType = None,
    measure: Literal["released"],
) -> ReleasedTrace: ...


def layer_trace(
    model: Module | Sequence[Step],
    inputs: Array,
    *,
    eps: float = 0.1,
    U: Array | Sequence[Array] | None = None,
    labels: Array | None = None,
    core_dtype: DType = None,
    measure: Literal["layers", "released"] = "layers",
) -> LayerTrace | ReleasedTrace:
    r"""Coding rates, sparsity and signal-to-noise ratio at :math:`Z^\ell, Z^{\ell+1/2}, Z^{\ell+1}` of every layer.

    Args:
        model: a network of torch with layers of :mod:`srr.nn`, its own ``blocks`` or a :class:`srr.nn.Block` anywhere
            between other layers, read in the order they run; or a list of steps, plain functions of the tokens or
            objects with ``compress`` and ``sparsify``, of any array library.
        inputs: what the network takes (images, symbols), or tokens (..., n, d) for a list of steps.
        eps: distortion ε.
        U: bases (K, d, p), one for all steps or one for each; needed for a list of steps, refused for a network.
        labels: the subspace of each token, integers (n,), for the signal-to-noise ratio.
        core_dtype: dtype the rates are computed in; float64 by default.
        measure: ``"layers"``, or ``"released"`` for the numbers of the released evaluation of a network, whose
            ε² = 0.01 is the eps here by default.

    Returns:
        A :class:`LayerTrace`, or a :class:`srr.diagnostics.ReleasedTrace` of the released measure.

    Raises:
        ValueError: bases missing or not wanted, no layers, eps not positive, or the released measure of plain steps.

    Source: The measurement of [CRATE] figures 3-4, without its fixed choice of scale; theory of the two measures, (12).

    Example:
        >>> import numpy as np, srr
        >>> mix = srr.subspace_mixture(n=60, d=8, K=2, p=4, noise=0.1, seed=0)
        >>> shrink = lambda Z: srr.ops.soft_threshold(Z, threshold=0.1)
        >>> trace = srr.layer_trace([shrink, shrink], mix.Z, U=mix.U, eps=0.5)
        >>> trace.sparsity.shape, bool((np.diff(trace.compression_raw[:, 2]) < 0).all())
        ((2, 3), True)
    """
    check_positive(eps, "eps")
    if measure == "released":
        if not _is_network(model, U) or U is not None or labels is not None:
            raise ValueError('measure="released" reads a network with blocks, and takes neither U nor labels')
        return _released(model, inputs, eps, core_dtype)
    if measure != "layers":
        raise ValueError(f'measure must be "layers" or "released"; got {measure!r}')
    if _is_network(model, U):
        if U is not None:
            raise ValueError("U is read from the network; give it only with a list of steps")
        states = _network_states(model, inputs)
    else:
        states = list(_step_states(list(cast("Sequence[Step]", model)), inputs, U))
    if not states:
        raise ValueError("model must have at least one layer; got none")
    common = orthonormalize(states[0].U)
    found = [_measure(layer, common, eps, labels, core_dtype) for layer in states]
    return LayerTrace(*(np.asarray(column, dtype=np.float64) for column in zip(*found, strict=True)))


def _step_states(steps: list[Step], Z: Array, U: Array | Sequence[Array] | None) -> Iterable[_Places]:
    check_tokens(Z)
    if U is None:
        raise ValueError("U must be given for a list of steps: bases (K, d, p), or one for each step")
    bases: list[Any] = list(U) if isinstance(U, (list, tuple)) else [U] * len(steps)
    if len(bases) != len(steps):
        raise ValueError(f"U must hold one array for each of the {len(steps)} steps; got {len(bases)}")
    for step, basis in zip(steps, bases, strict=True):
        half = step.compress(Z) if hasattr(step, "compress") else None
        after = step.sparsify(half) if half is not None and hasattr(step, "sparsify") else step(Z)
        yield _Places((Z, after if half is None else half, after), basis, getattr(step, "D", None))
        Z = after


def _is_network(model: Any, U: Any) -> bool:
    """Whether layers are found inside a network of torch; given bases, a sequence of modules is one of steps."""
    steps = U is not None and hasattr(model, "__iter__")
    return hasattr(model, "blocks") or (hasattr(model, "named_modules") and not steps)


def _network_states(model: Any, inputs: Array) -> list[_Places]:
    """Inputs and outputs of the blocks in one forward pass, in evaluation mode, and the half-steps between them."""
    from srr.nn.probe import evaluating, layer_runs

    with evaluating(model), layer_runs(model) as seen:
        model(inputs)
        return [_places(*state) for state in seen]


def _places(block: Any, Z: Array, after: Array, mask: Array | None) -> _Places:
    D = getattr(getattr(block, "dictionary", None), "D", None)
    half = block.compress(Z) if mask is None else block.compress(Z, mask)
    return _Places((Z, half, after), block.attention.U.detach(), None if D is None else D.detach())


def _released(model: Any, inputs: Array, eps: float, core_dtype: DType) -> ReleasedTrace:
    from srr.nn.probe import evaluating, layer_runs

    columns = []
    with evaluating(model), layer_runs(model) as seen:
        model(inputs)
        for state in seen:
            block: Any = state.block
            heads = _unit(project(block.attention_norm(state.before), block.attention.U))  # (B, K, n, p)
            rates = to_numpy(coding_rate(heads, eps=eps, core_dtype=core_dtype)).sum(-1)
            after = to_numpy(state.after != 0).mean((-2, -1))
            columns.append([f(x) for x in (rates, after) for f in (np.mean, _deviation)])
    return ReleasedTrace(*np.asarray(columns, dtype=np.float64).T)


def _deviation(values: Numbers) -> float:
    """Standard deviation of a sample; 0 of one value."""
    return float(np.std(values, ddof=1)) if np.size(values) > 1 else 0.0


def _measure(layer: _Places, common: Array, eps: float, labels: Array | None, core_dtype: DType) -> tuple[Any, ...]:
    bases, columns = orthonormalize(layer.U), []
    for Z in layer.tokens:
        unit = _unit(Z)
        options = {"eps": eps, "core_dtype": core_dtype}
        rates = (
            subspace_coding_rate(Z, layer.U, **options),
            subspace_coding_rate(unit, bases, **options),
            subspace_coding_rate(unit, common, **options),
            coding_rate(Z, **options),
            coding_rate(unit, **options),
        )
        noise = float("nan") if labels is None else snr(Z, bases, labels)
        columns.append((*(_mean(r) for r in rates), _mean(_length(unit)), _nonzero(Z), _mean(noise)))
    return (*zip(*columns, strict=True), _spectral_norm(layer.D) ** 2)


def _unit(Z: Array) -> Array:
    """Tokens scaled to unit norm, zero tokens left at zero."""
    xp = namespace(Z)
    length = xp.sqrt(xp.sum(Z * Z, axis=-1, keepdims=True))
    return Z / xp.where(length > 0, length, xp.ones_like(length))


def _length(Z: Array) -> Array:
    """ℓ1 norm of each token."""
    xp = namespace(Z)
    return xp.sum(xp.abs(Z), axis=-1)


def _mean(x: Any) -> float:
    return float(np.mean(to_numpy(x))) if hasattr(x, "shape") else float(x)


def _nonzero(Z: Array) -> float:
    return float(np.mean(to_numpy(Z) != 0))


def _spectral_norm(D: Array | None) -> float:
    if D is None:
        return float("nan")
    host = to_numpy(D.float() if is_torch(D) else D)
    return float(np.linalg.norm(host, ord=2))
