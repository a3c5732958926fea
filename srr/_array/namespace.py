"""Floor 0: one place that knows array libraries and the precision of the core.

Every other file speaks the Python array API standard and asks this one for its namespace.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol, Self, TypeAlias, TypeGuard, TypeVar

import array_api_compat
import array_api_compat.numpy
import numpy as np

DType: TypeAlias = Any
"""A dtype object of an array library."""
Device: TypeAlias = Any
"""A device in an array library's own words."""
Namespace: TypeAlias = Any
"""A module that follows the Python array API standard; its functions give arrays that the checker does not follow."""


class Array(Protocol):  # noqa: PLW1641
    """An array of any supported library: NumPy, torch, JAX, CuPy, Dask, array-api-strict.

    What every one of them offers and a formula may use; a misspelt attribute is an error of the type checker.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def device(self) -> Device: ...
    @property
    def mT(self) -> Self: ...

    def __getitem__(self, key: Any, /) -> Self: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __len__(self) -> int: ...
    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __float__(self) -> float: ...
    def __index__(self) -> int: ...

    def __neg__(self) -> Self: ...
    def __abs__(self) -> Self: ...
    def __invert__(self) -> Self: ...
    def __add__(self, other: Any, /) -> Self: ...
    def __radd__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __rsub__(self, other: Any, /) -> Self: ...
    def __mul__(self, other: Any, /) -> Self: ...
    def __rmul__(self, other: Any, /) -> Self: ...
    def __truediv__(self, other: Any, /) -> Self: ...
    def __rtruediv__(self, other: Any, /) -> Self: ...
    def __floordiv__(self, other: Any, /) -> Self: ...
    def __pow__(self, other: Any, /) -> Self: ...
    def __matmul__(self, other: Any, /) -> Self: ...
    def __and__(self, other: Any, /) -> Self: ...
    def __or__(self, other: Any, /) -> Self: ...
    def __lt__(self, other: Any, /) -> Array: ...
    def __le__(self, other: Any, /) -> Array: ...
    def __gt__(self, other: Any, /) -> Array: ...
    def __ge__(self, other: Any, /) -> Array: ...
    def __eq__(self, other: Any, /) -> Array: ...  # type: ignore[override]  # elementwise, not object's
    def __ne__(self, other: Any, /) -> Array: ...  # type: ignore[override]  # elementwise, not object's


NUMPY: Namespace = array_api_compat.numpy
"""NumPy as the standard has it."""
ArrayT = TypeVar("ArrayT", bound=Array)
Number: TypeAlias = float | Array
"""A number, or an array of numbers: one for each item."""
Host: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""An array of NumPy."""
_NUMPY = {np.ndarray}
_NUMPY_KINDS = (np.ndarray, np.generic)  # as a tuple, which torch.compile can follow


def is_numpy(x: object) -> TypeGuard[Any]:
    """Whether x is an array or a number of NumPy."""
    return isinstance(x, _NUMPY_KINDS)


def is_jax(x: object) -> TypeGuard[Any]:
    """Whether x is a JAX array, traced or not."""
    return bool(array_api_compat.is_jax_array(x))


def is_cupy(x: object) -> TypeGuard[Any]:
    """Whether x is a CuPy array."""
    return bool(array_api_compat.is_cupy_array(x))


def is_torch(x: object) -> TypeGuard[Any]:
    """Whether x is a torch tensor, without importing torch and in a form ``torch.compile`` can follow."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def namespace(*arrays: Array | None, xp: Namespace = None) -> Namespace:
    """Array API namespace shared by the arrays; ``None`` entries are ignored.

    Args:
        *arrays: arrays of one library.
        xp: namespace to use instead of looking it up.

    Returns:
        The array API compatible module of that library.

    Raises:
        TypeError: an argument is not an array, or two libraries are mixed.
    """
    if xp is not None:
        return xp
    kinds = {type(a) for a in arrays if a is not None}
    if kinds == _NUMPY:
        return array_api_compat.numpy
    torch = sys.modules.get("torch")
    if torch is not None and kinds and (kinds == {torch.Tensor} or all(issubclass(k, torch.Tensor) for k in kinds)):
        return _torch_namespace()
    try:
        return array_api_compat.array_namespace(*[a for a in arrays if a is not None])
    except TypeError as error:
        names = ", ".join(sorted(f"{kind.__module__}.{kind.__name__}" for kind in kinds))
        raise TypeError(f"arguments must be arrays of one library; got {names}") from error


def _torch_namespace() -> Namespace:
    import array_api_compat.torch  # import_module stops torch.compile

    return array_api_compat.torch


def device(x: Array) -> Any:
    """Device an array lives on, in its own library's words."""
    return array_api_compat.device(x)


def is_concrete(*arrays: Array) -> bool:
    """Whether the values of every array may be read here and now at no hidden cost.

    False while a program is being traced (``jit``, ``vmap``, ``torch.compile``), for torch tensors that belong
    to an autograd graph, and for torch tensors on an accelerator, where reading one value would stall the stream.
    """
    if len(arrays) == 1:
        return _is_concrete(arrays[0])
    return all(_is_concrete(a) for a in arrays)


def _is_concrete(x: Array) -> bool:
    if is_torch(x):
        torch = sys.modules["torch"]
        if x.requires_grad or not x.is_cpu or torch.compiler.is_compiling() or torch._C._is_tracing():
            return False
        return not torch._C._functorch.is_functorch_wrapped_tensor(x)
    if is_jax(x):
        return not isinstance(x, sys.modules["jax"].core.Tracer)
    return not array_api_compat.is_dask_array(x)


def is_readable(x: Array) -> bool:
    """Whether the values of an array exist here and now: not in a traced or batched program, nor in a lazy one.

    Unlike :func:`is_concrete` this holds for tensors of an autograd graph and on an accelerator.
    """
    if is_torch(x):
        torch = sys.modules["torch"]
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return False
        return x.device.type != "meta" and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    if is_jax(x):
        return not isinstance(x, sys.modules["jax"].core.Tracer)
    return not array_api_compat.is_dask_array(x)


def host_view(x: Any) -> np.ndarray[Any, Any] | None:
    """Real numbers of one or two words as NumPy sees them in place, where that may be used for any arithmetic.

    That is an array of NumPy, or a plain tensor on a CPU whose values exist and of which no derivative is taken; None
    for everything else.
    """
    if isinstance(x, np.ndarray):
        return x if x.dtype.char in "fd" else None
    torch = sys.modules.get("torch")
    if torch is None or type(x) not in (torch.Tensor, torch.nn.Parameter) or not x.is_cpu:
        return None
    if x.dtype not in (torch.float32, torch.float64) or x.layout != torch.strided:
        return None
    if _is_differentiated(x) or torch._C._len_torch_dispatch_stack() > 0:  # a mode that counts or records calls
        return None
    return np.asarray(x.detach().resolve_neg().numpy())


def from_host(x: Any, like: ArrayT) -> ArrayT:
    """What NumPy computed from a :func:`host_view`, without a copy, in the library of ``like``."""
    if not isinstance(x, _NUMPY_KINDS) or not is_torch(like):
        return x
    return sys.modules["torch"].from_numpy(np.asarray(x))


def unwrapped(x: Any) -> Any:
    """Numbers that torch.func carries along while it differentiates something else, as the tensor they were."""
    if not is_torch(x) or is_compiling(x):
        return x
    torch = sys.modules["torch"]
    functorch = torch._C._functorch
    while functorch.is_gradtrackingtensor(x):
        x = functorch.get_unwrapped(x)
    return x


def is_compiling(x: Array) -> bool:
    """Whether torch is making a program of x, where neither values nor functions with own derivatives may be used."""
    torch = sys.modules.get("torch")
    return torch is not None and is_torch(x) and (torch.compiler.is_compiling() or torch.jit.is_tracing())


def is_differentiated(*arrays: Number | None) -> bool:
    """Whether a derivative of what is computed from the arrays may be taken, by torch or by JAX."""
    return any(a is not None and _is_differentiated(a) for a in arrays)


def _is_differentiated(x: Number) -> bool:
    if is_torch(x):
        torch = sys.modules["torch"]
        if x.requires_grad and torch.is_grad_enabled():
            return True
        return not is_readable(x) or torch.autograd.forward_ad._current_level >= 0
    return is_jax(x) and not is_readable(x)


def is_free_of_nan(x: Array) -> bool:
    """Whether a torch tensor is known to hold no NaN; False where its values may not be read."""
    return _is_concrete(x) and sys.modules["torch"].equal(x, x)  # one pass and no copy: NaN is unlike itself


def any_true(flags: Array, xp: Namespace) -> bool:
    """Whether an entry is known to be true; a trace that captures a constant makes even its flags unknown."""
    found = flags.any() if is_torch(flags) or isinstance(flags, np.ndarray) else xp.any(flags)
    if is_jax(found) and isinstance(found, sys.modules["jax"].core.Tracer):
        return False
    return bool(found)


def is_floating(x: Array, xp: Namespace) -> bool:
    """Whether the dtype is a real floating type, the low-precision ones of each library included."""
    if isinstance(x, np.ndarray):
        return x.dtype.kind == "f"
    floating = getattr(x.dtype, "is_floating_point", None)  # torch says so itself
    if floating is not None:
        return bool(floating)
    return bool(xp.isdtype(x.dtype, "real floating"))


def asarray_like(values: Any, like: ArrayT, *, dtype: DType = None, xp: Namespace = None) -> ArrayT:
    """Bring host values to the library, device and (unless given) dtype of ``like``."""
    xp = namespace(like, xp=xp)
    if is_torch(values) and is_torch(like):  # torch.asarray keeps the graph or cuts it, by the version
        return values.to(dtype=like.dtype if dtype is None else dtype, device=like.device)
    return xp.asarray(values, dtype=like.dtype if dtype is None else dtype, device=device(like))


def index_like(values: Any, like: Array, xp: Namespace) -> Any:
    """Bring host indices to the library and device of ``like``: 64 bits, or what JAX has without them."""
    integer = xp.int64 if not is_jax(like) or sys.modules["jax"].config.jax_enable_x64 else xp.int32
    return asarray_like(values, like, dtype=integer, xp=xp)


def eye(n: int, like: ArrayT, xp: Namespace) -> ArrayT:
    """Identity of size n with the dtype and device of ``like``."""
    if is_torch(like):
        return sys.modules["torch"].eye(n, dtype=like.dtype, device=like.device)
    return xp.eye(n, dtype=like.dtype, device=device(like))


def to_numpy(x: Array | Sequence[Any]) -> np.ndarray[Any, Any]:
    """Copy or view an array of any library as NumPy on the host."""
    if is_torch(x):
        with sys.modules["torch"]._C._DisableFuncTorch():
            return np.asarray(x.detach().cpu().numpy())
    if is_cupy(x):
        return np.asarray(x.get())
    return np.asarray(_strict_on_host(x))


def _strict_on_host(x: Any) -> Any:
    """The strict library gives NumPy the arrays of its CPU device only."""
    strict = sys.modules.get("array_api_strict")
    return x.to_device(strict.Device("CPU_DEVICE")) if strict and isinstance(x, type(strict.empty(0))) else x


def epsilon(dtype: DType, xp: Namespace) -> float:
    """Machine epsilon of a floating dtype."""
    return float(xp.finfo(dtype).eps)


def core_cast(Z: ArrayT, core_dtype: DType, xp: Namespace) -> ArrayT:
    """Tokens in the dtype of the core: float64 unless asked otherwise; without one (JAX without x64) float32."""
    if core_dtype is None:
        if not has_float64(Z, xp):
            return widen(Z, xp)
        core_dtype = xp.float64
    return Z if Z.dtype == core_dtype else xp.astype(Z, core_dtype)


def has_float64(Z: Array, xp: Namespace) -> bool:
    """Whether the library computes in float64 where the array lies."""
    if is_jax(Z):
        return bool(sys.modules["jax"].config.jax_enable_x64)
    return not (is_torch(Z) and Z.device.type == "mps")


def widen(x: ArrayT, xp: Namespace) -> ArrayT:
    """The array in float32 where it is of a half type: sums of squares of halves overflow, and LAPACK has none."""
    return xp.astype(x, xp.float32) if getattr(x.dtype, "itemsize", 4) < 4 else x


def widened(*arrays: ArrayT | None, xp: Namespace) -> tuple[Any, ...]:
    """Several arrays, or None for them, each as :func:`widen` gives it."""
    for x in arrays:
        if x is not None and getattr(x.dtype, "itemsize", 4) < 4:
            return tuple([None if x is None else widen(x, xp) for x in arrays])
    return arrays


def cast_like(x: ArrayT, like: Array, xp: Namespace) -> ArrayT:
    """The array in the dtype of the argument that decides it."""
    return x if x.dtype == like.dtype else xp.astype(x, like.dtype)


def positive_part(x: ArrayT, xp: Namespace) -> ArrayT:
    """Entries where positive, zero elsewhere, of an array that is the caller's own: torch overwrites it."""
    if is_torch(x):
        return x.relu_()
    return xp.maximum(x, xp.zeros_like(x))


def root(x: ArrayT, xp: Namespace) -> ArrayT:
    """Square root of numbers ≥ 0 whose derivative at zero is zero, where that of the root is infinite."""
    positive = x > 0
    return xp.where(positive, xp.sqrt(xp.where(positive, x, xp.ones_like(x))), xp.zeros_like(x))


def softmax(scores: ArrayT, *, axis: int, xp: Namespace) -> ArrayT:
    """Softmax along an axis; a slice of only −∞ gives zeros."""
    top = xp.max(scores, axis=axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    mass = xp.exp(scores - top)
    total = xp.sum(mass, axis=axis, keepdims=True)
    return mass / xp.where(total > 0, total, xp.ones_like(total))


WRITTEN_OUT = {False: 512, True: 2048}
"""Tokens up to which bfloat16 attention is written out, without and with derivatives."""


def _written_out(V: Array) -> bool:
    torch = sys.modules["torch"]
    if V.dtype != torch.bfloat16 or V.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return V.shape[-2] <= WRITTEN_OUT[is_differentiated(V)] and multiplies_bfloat16()


@cache
def multiplies_bfloat16() -> bool:
    """Whether the vector units of this CPU multiply bfloat16 and it has no tiles that do."""
    asked = sys.modules["torch"].cpu
    units, tiles = (getattr(asked, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return units is not None and tiles is not None and units() and not tiles()


def scaled_dot_product_attention(Q: ArrayT, V: ArrayT, *, scale: float, causal: bool, mask: ArrayT | None) -> ArrayT:
    """Softmax attention of torch with key = value = V, on whichever fused kernel torch has for the case.

    Those kernels want four axes, and take no second and no forward derivative; three axes keep these. In bfloat16 on
    a CPU whose vector units multiply it and that has no tiles for it, the fused kernel is the slower one: there the
    products are written out, up to the numbers of tokens at which that was measured to win.
    """
    if mask is None and not causal and _written_out(V):
        torch: Any = sys.modules["torch"]
        keys, queries = (torch.reshape(X, (-1, *X.shape[-2:])) for X in (V, Q))
        scores = torch.baddbmm(keys.new_zeros(()), queries, keys.mT, beta=0.0, alpha=scale)
        return torch.reshape(scores.softmax(-1) @ keys, Q.shape)
    attention = sys.modules["torch.nn.functional"].scaled_dot_product_attention
    if V.ndim == 3 and mask is None and not _is_differentiated(V):
        keys = V[None]
        return attention(keys if Q is V else Q[None], keys, keys, is_causal=causal, scale=scale)[0]
    return attention(Q, V, V, attn_mask=mask, is_causal=causal, scale=scale)
