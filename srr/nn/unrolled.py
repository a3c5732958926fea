"""Any problem and any solver as a network: a layer is the solver's own step, its parameters are the fields one names.

A step is a frozen set of numbers and arrays, pure in its inputs. `Unrolled` repeats it a fixed number of times and
learns what it is made of; `Equilibrium` runs the solver until it stops, and differentiates where it arrives.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, gmres
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from srr._array.checks import check_count
from srr._array.namespace import Array
from srr.ops import orthonormalize
from srr.solvers.driver import Solution, Solver, Startable, State, minimize
from srr.solvers.layers import Alternating, IstaSparsification
from srr.solvers.proximal import FixedStep, ProximalGradient
from srr.solvers.smooth import LBFGS

__all__ = ["Unrolled", "Equilibrium"]

Matrix = np.ndarray[Any, np.dtype[Any]]
P = TypeVar("P", bound=Startable[Any])
S = TypeVar("S", bound=State)


class Recipe(NamedTuple):
    """How a dataclass is built anew: its class, and for every field a path to look up, a recipe or the value itself."""

    make: Callable[..., Any]
    fields: tuple[tuple[str, Any], ...]


class Lookup(NamedTuple):
    """A field whose value is looked up by its path."""

    path: str


class Parametrized(nn.Module):
    """A problem and a solver some of whose fields are parameters; see `Unrolled` for the arguments."""

    def __init__(
        self,
        problem: Startable[Any],
        solver: object,
        layers: int,
        learn: Sequence[str],
        inputs: Sequence[str],
        orthonormal: Sequence[str],
        free: Sequence[str],
        cap: bool,
    ) -> None:
        super().__init__()
        self.learn, self.inputs, self.cap = tuple(learn), tuple(inputs), cap
        leaves = {**dict(_leaves(problem, "")), **dict(_leaves(solver, "solver."))}
        for kind, names in (("learn", learn), ("inputs", inputs)):
            for name in names:
                if name not in leaves:
                    raise ValueError(
                        f"{kind} must name fields of the problem or the solver, {sorted(leaves)}; got {name!r}"
                    )
        for kind, names in (("orthonormal", orthonormal), ("free", free)):
            if not set(names) <= set(learn):
                raise ValueError(f"{kind} must name learned fields, {list(learn)}; got {list(names)}")
        tensors = {path: torch.as_tensor(value) for path, value in leaves.items() if _is_array(value)}
        dtype = next((x.dtype for x in tensors.values() if x.is_floating_point()), torch.get_default_dtype())
        self._kinds: dict[str, str] = {}
        starts: dict[str, Tensor | nn.Module] = {}
        for path in self.learn:
            owner = (problem if not path.startswith("solver.") else solver, path.removeprefix("solver."))
            starts[path] = self._start(path, leaves[path], dtype, orthonormal, free, _owner(*owner))
        self.constants = _holder(
            {
                path: value if isinstance(value, nn.Module) else tensors[path]
                for path, value in leaves.items()
                if path not in (*learn, *inputs) and (path in tensors or isinstance(value, nn.Module))
            },
            learned=False,
        )
        self.layers = nn.ModuleList(_holder(starts, learned=True) for _ in range(layers))
        looked_up = {*learn, *inputs, *self.constants.paths}
        self._problem = _recipe(problem, "", looked_up)
        self._solver = _recipe(solver, "solver.", looked_up)

    def layer(self, index: int, Z: Tensor, /, **given: Tensor) -> tuple[Any, Any]:
        """The problem and the solver whose step a layer is, for tokens of the shape of Z and the fields given."""
        if set(given) != set(self.inputs):
            raise ValueError(f"a call must give the fields {list(self.inputs)}; got {sorted(given)}")
        holder = cast("_Holder", self.layers[index % len(self.layers)])
        values = {**self.constants.values(), **given}
        learned = holder.values()
        if not torch.is_grad_enabled():  # arrays whose values may be read
            learned = {path: raw.detach() if isinstance(raw, Tensor) else raw for path, raw in learned.items()}
        steps = {}
        for path, raw in learned.items():
            kind = self._kinds.get(path, "free")
            if kind in ("step", "share"):
                steps[path] = torch.exp(raw)
            elif kind == "orthonormal":
                values[path] = orthonormalize(raw)
            else:
                values[path] = torch.exp(raw) if kind == "positive" else raw
        problem = _built(self._problem, values)
        limit = problem.smoothness(Z) if any(self.cap or self._kinds[path] == "share" for path in steps) else 1.0
        for path, step in steps.items():
            share = step if self._kinds[path] == "share" else step * limit
            absolute = step if self._kinds[path] == "step" else step / limit
            values[path] = torch.tanh(share) / limit if self.cap else absolute
        return problem, _built(self._solver, values)

    def _start(
        self, path: str, value: Any, dtype: torch.dtype, orthonormal: Sequence[str], free: Sequence[str], owner: object
    ) -> Tensor | nn.Module:
        """What a parameter starts from, in the coordinates it is learned in."""
        is_step = path.rpartition(".")[2] == "step"
        if isinstance(value, nn.Module):
            return value
        if value is None and is_step:
            self._kinds[path] = "share"
            return torch.tensor(2.0 if self.cap else 1.0, dtype=dtype).log()
        if _is_array(value) and np.ndim(value):
            if path in orthonormal:
                self._kinds[path] = "orthonormal"
            start = torch.as_tensor(value)
            if start.is_floating_point():
                return start
        elif isinstance(value, int | float) or _is_array(value):
            if is_step and self.cap and isinstance(owner, IstaSparsification):
                raise ValueError(f"cap must be False to learn {path}: its limit is 1/‖D‖², not that of the problem")
            number = float(value)
            if path in free or number <= 0:
                if number == 0 and path not in free:
                    raise ValueError(f"{path} must start above 0 to stay positive, or be named in free; got 0")
                return torch.tensor(number, dtype=dtype)
            self._kinds[path] = "step" if is_step else "positive"
            return torch.tensor(number, dtype=dtype).log()
        raise ValueError(f"learn must name numbers, floating arrays and modules; {path} is {value!r}")


class Unrolled(Parametrized):
    r"""The first ``depth`` steps of a solver on a problem, as a module whose parameters are fields of both.

    .. math:: Z^{\ell+1} = \mathrm{step}_{\theta_\ell}(Z^\ell), \quad \ell = 0, \dots, \mathrm{depth} - 1

    The layer is ``solver.layer``, the solver's step without the numbers that only a driver reads, on the solver's own
    memory (the momentum of FISTA included); a solver without it is folded by ``init`` and ``step``. Before training
    the output is that of ``srr.minimize(problem, Z, solver, tol=0, max_steps=depth)``.

    Args:
        problem: what is solved, a dataclass such as `srr.SparseRateReduction`; arrays of NumPy become tensors.
        solver: how, with fixed steps: ``srr.ProximalGradient(srr.FixedStep())``, ``srr.Accelerated()``,
            ``srr.Alternating()``, or one's own. Give ``restart=False`` to save two objectives a layer of FISTA.
        depth: number of layers.
        learn: fields that become parameters: ``"U"``, ``"eps"``, ``"penalty.lam"`` of the problem,
            ``"solver.rule.step"`` of the solver. A module in a field, such as a norm, is copied for every layer.
            A step that is None is learned as a share of 1/L, from 1.
        share: one parameter for all layers in place of one a layer.
        inputs: fields of the problem that every call gives, ``net(A, Z=tokens)``, such as the tokens of
            `srr.SparseCoding`, the memberships of `srr.RateReduction`, or the mask of a problem that has one.
        orthonormal: learned arrays whose columns stay orthonormal.
        free: learned numbers that may change their sign; others stay positive when they start so.
        cap: keep every learned step t below 1/L of its layer's problem, as tanh(tL)/L, which is differentiable; for
            small t it is t. A share of 1/L then starts at tanh(2) = 0.96.
        recompute: work a layer out again in the backward pass instead of keeping what it made.

    Raises:
        TypeError: depth is not an integer.
        ValueError: depth below 1, a name that is no field or cannot be learned, a solver that searches.

    Source: [CRATE] §2.4, a layer as a step; Gregor and LeCun (2010), learned ISTA.

    Example:
        >>> import srr
        >>> mix = srr.subspace_mixture(n=40, d=8, K=2, p=3, noise=0.2, seed=0)
        >>> problem = srr.SparseRateReduction(U=mix.U, eps=0.5, penalty=srr.UnitL1(0.005))
        >>> net = Unrolled(problem, srr.ProximalGradient(srr.FixedStep()), 6, learn=("U", "penalty.lam"))
        >>> net(torch.asarray(mix.Z)).shape, len(list(net.parameters()))
        (torch.Size([40, 8]), 12)
    """

    def __init__(
        self,
        problem: P,
        solver: Solver[P, Array, S],
        depth: int,
        learn: Sequence[str] = (),
        share: bool = False,
        *,
        inputs: Sequence[str] = (),
        orthonormal: Sequence[str] = (),
        free: Sequence[str] = (),
        cap: bool = False,
        recompute: bool = False,
    ) -> None:
        check_count(depth, "depth")
        _check_solver(solver)
        super().__init__(problem, solver, 1 if share else depth, learn, inputs, orthonormal, free, cap)
        self.depth, self.recompute = depth, recompute

    def forward(self, Z: Tensor, /, **given: Tensor) -> Tensor:
        """Tokens, or whatever the problem is about, after the last layer.

        Args:
            Z: first iterate (..., n, d), put into the domain of the problem first.
            **given: the fields named as ``inputs``.

        Returns:
            Last iterate, shape of Z.
        """
        memory: Any = None
        for index in range(self.depth):
            if index == 0:
                Z = self.layer(0, Z, **given)[0].start(Z)
            run = partial(self._advance, index, given)
            if self.recompute and self.training:
                Z, memory = checkpoint(run, Z, memory, use_reentrant=False)
            else:
                Z, memory = run(Z, memory)
        return Z

    def extra_repr(self) -> str:
        """What is learned."""
        return f"depth={self.depth}, learn={self.learn}, share={len(self.layers) < self.depth}"

    def _advance(self, index: int, given: dict[str, Tensor], Z: Tensor, memory: Any) -> tuple[Tensor, Any]:
        problem, solver = self.layer(index, Z, **given)
        if hasattr(solver, "layer"):
            return solver.layer(problem, Z, memory)
        return solver.step(problem, Z, solver.init(problem, Z) if memory is None else memory)


class Equilibrium(Parametrized):
    r"""Where a solver arrives, as a layer: the derivative is that of the solution, whatever way led there.

    .. math:: Z^* = T_\theta(Z^*), \qquad
              \frac{\partial \ell}{\partial \theta} = \frac{\partial T_\theta}{\partial \theta}^{\!\top} w, \quad
              \Bigl(I - \frac{\partial T_\theta}{\partial Z}^{\!\top}\Bigr) w = \frac{\partial \ell}{\partial Z^*}

    T is a proximal gradient step of length 1/L at the solution (one layer of `srr.Alternating`, where that is the
    solver). The equation is solved by the GMRES of SciPy with products that autograd gives, so memory does not grow
    with the number of steps. ``net.solution`` is the `srr.Solution` of the last call, with the status of every item.

    Fixed steps need thousands of steps for 1e-4: take ``srr.Accelerated()`` where the problem is convex and
    ``srr.ProximalGradient(srr.BarzilaiBorwein())`` where it is not. The derivative is as accurate as the solution. It
    exists where the solution is locally unique, and in directions that do not tell solutions apart, such as rotations
    of all tokens of `srr.RateReduction`; elsewhere the backward pass raises.

    Args:
        problem: what is solved, a dataclass such as `srr.SparseCoding`.
        solver: how, searching or not.
        learn: fields of the problem that become parameters; those of the solver only for `srr.Alternating`, because
            no other solution depends on its solver.
        tol: distance to optimality at which an item is solved.
        max_steps: largest number of steps.
        inputs: fields of the problem that every call gives.
        orthonormal: learned arrays whose columns stay orthonormal.
        free: learned numbers that may change their sign; others stay positive when they start so.

    Raises:
        ValueError: a name that is no field or cannot be learned.

    Source: Bai, Kolter and Koltun (2019), theorem 1, for the derivative of a fixed point.

    Example:
        >>> import srr
        >>> problem = srr.SparseCoding(torch.ones(1, 2), torch.eye(2), srr.L1(0.25))
        >>> net = Equilibrium(problem, srr.Accelerated(), learn=("penalty.lam",))
        >>> codes = net(torch.zeros(1, 2))
        >>> codes.sum().backward()
        >>> codes.tolist(), [round(float(p.grad), 6) for p in net.parameters()]  # by log λ
        ([[0.75, 0.75]], [-0.5])
    """

    def __init__(
        self,
        problem: P,
        solver: Solver[P, Array, S],
        learn: Sequence[str] = (),
        *,
        tol: float = 1e-8,
        max_steps: int = 10_000,
        inputs: Sequence[str] = (),
        orthonormal: Sequence[str] = (),
        free: Sequence[str] = (),
    ) -> None:
        if not isinstance(solver, Alternating) and (wrong := [name for name in learn if name.startswith("solver.")]):
            raise ValueError(f"learn must name fields of the problem: the solution does not depend on {wrong}")
        super().__init__(problem, solver, 1, learn, inputs, orthonormal, free, False)
        self.tol, self.max_steps = tol, max_steps
        self.solution: Solution[Any] | None = None

    def forward(self, Z: Tensor, /, **given: Tensor) -> Tensor:
        """Solution of the problem.

        Args:
            Z: first iterate (..., n, d).
            **given: the fields named as ``inputs``.

        Returns:
            Last iterate, shape of Z.
        """
        with torch.no_grad():
            problem, solver = self.layer(0, Z, **given)
            self.solution = minimize(problem, Z.detach(), solver, tol=self.tol, max_steps=self.max_steps)
        found = cast("Tensor", self.solution.Z)
        if not torch.is_grad_enabled():
            return found
        problem, solver = self.layer(0, found, **given)
        step = solver if isinstance(solver, Alternating) else ProximalGradient(FixedStep())
        out = cast("Tensor", step.layer(problem, found)[0])
        if out.requires_grad:
            here = found.clone().requires_grad_()
            there = cast("Tensor", step.layer(problem, here)[0])
            adjoint = partial(_solve_adjoint, here, there)
            out = cast("Tensor", _WithAdjoint.apply(out, adjoint))  # type: ignore[no-untyped-call]  # of torch
        return out


class _WithAdjoint(torch.autograd.Function):
    """The identity, whose backward pass maps the gradient by a function."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, adjoint: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.adjoint = adjoint
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.adjoint(grads[0]), None


def _solve_adjoint(here: Tensor, there: Tensor, grad: Tensor) -> Tensor:
    """The w with w - (∂there/∂here)ᵀ w = grad."""
    shape, like = here.shape, grad

    def apply(x: Matrix) -> Matrix:
        w = torch.as_tensor(x, dtype=like.dtype, device=like.device).reshape(shape)
        (pulled,) = torch.autograd.grad(there, here, w, retain_graph=True)
        return (w - pulled).double().cpu().numpy().ravel()

    right = grad.detach().double().cpu().numpy().ravel()
    equation = LinearOperator((right.size, right.size), matvec=apply, dtype=np.float64)
    rtol = 100 * torch.finfo(grad.dtype).eps
    w, _ = gmres(equation, right, rtol=rtol, restart=min(right.size, 100), maxiter=20)
    left = float(np.linalg.norm(apply(w) - right))
    if left > 1e4 * rtol * float(np.linalg.norm(right)):
        raise RuntimeError(
            f"the solution has no derivative here, since it is not locally unique; the equation is left at {left:.1e}"
        )
    return torch.as_tensor(w, dtype=grad.dtype, device=grad.device).reshape(shape)


class _Holder(nn.Module):
    """Tensors and modules by their paths in a problem and a solver."""

    paths: tuple[str, ...]

    def values(self) -> dict[str, Any]:
        """What stands at every path."""
        return {path: getattr(self, _key(path)) for path in self.paths}


def _holder(values: dict[str, Tensor | nn.Module], *, learned: bool) -> _Holder:
    holder = _Holder()
    holder.paths = tuple(values)
    for path, value in values.items():
        if isinstance(value, nn.Module):
            holder.add_module(_key(path), copy.deepcopy(value) if learned else value)
        elif learned:
            holder.register_parameter(
                _key(path), nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format))
            )
        else:
            holder.register_buffer(_key(path), value.contiguous())
    return holder


def _key(path: str) -> str:
    return path.replace(".", "_")


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _owner(thing: object, path: str) -> object:
    for name in path.split(".")[:-1]:
        thing = getattr(thing, name)
    return thing


def _field_names(thing: object) -> list[str]:
    """Fields that a dataclass is built from; none for anything else."""
    if not dataclasses.is_dataclass(thing) or isinstance(thing, type):
        return []
    return [field.name for field in dataclasses.fields(thing) if field.init]


def _leaves(thing: object, prefix: str) -> Iterator[tuple[str, Any]]:
    """Every field that is no dataclass itself, by its path."""
    for name in _field_names(thing):
        value = getattr(thing, name)
        if _field_names(value):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _recipe(thing: object, prefix: str, looked_up: set[str]) -> Any:
    """Recipe of a dataclass, or the thing itself where nothing in it is looked up."""
    fields: list[tuple[str, Any]] = []
    for name in _field_names(thing):
        path = prefix + name
        fields.append(
            (name, Lookup(path) if path in looked_up else _recipe(getattr(thing, name), path + ".", looked_up))
        )
    if not any(isinstance(part, Lookup | Recipe) for _, part in fields):
        return thing
    return Recipe(type(thing), tuple(fields))


def _built(recipe: Any, values: dict[str, Any]) -> Any:
    """What a recipe makes of the values."""
    if isinstance(recipe, Lookup):
        return values[recipe.path]
    if isinstance(recipe, Recipe):
        return recipe.make(**{name: _built(part, values) for name, part in recipe.fields})
    return recipe


def _check_solver(solver: object) -> None:
    """Refuse solvers whose step depends on values that no trace can read."""
    rule = getattr(solver, "rule", None)
    if getattr(rule, "memory", 0):
        raise ValueError(
            f"solver must take fixed steps, since a search reads values: give it srr.FixedStep(); got {rule!r}"
        )
    if isinstance(solver, LBFGS):
        raise ValueError("solver must be one whose step can be differentiated; LBFGS runs in SciPy")
