"""Rate losses: gradients of both orders, one factorization, precisions, and the regularizer on a model."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from srr import ops
from srr.nn import create_model
from srr.nn.losses import (
    fused_coding_rate,
    fused_rate_reduction,
    fused_subspace_coding_rate,
    mcr2_loss,
    srr_regularizer,
    total_coding_rate_regularizer,
)
from tests.benchmarks import reference_rates as naive

EPS = 0.5
SHAPES = [(6, 3), (3, 6), (2, 4, 4), (1, 1)]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def members(n, K, seed=1):
    return torch.softmax(draw(n, K, seed=seed), dim=-1)


def labels_of(n, K):
    return torch.arange(n) % K


CASES = {
    "coding_rate": lambda Z: fused_coding_rate(Z, eps=EPS),
    "weighted": lambda Z: fused_coding_rate(Z, eps=EPS, weights=torch.linspace(0, 2, Z.shape[-2], dtype=Z.dtype)),
    "subspace": lambda Z: fused_subspace_coding_rate(Z, draw(2, Z.shape[-1], 2, seed=3, dtype=Z.dtype), eps=EPS),
    "labels": lambda Z: fused_rate_reduction(Z, labels_of(Z.shape[-2], 3), eps=EPS),
    "membership": lambda Z: fused_rate_reduction(Z, members(Z.shape[-2], 3), eps=EPS),
    "mcr2_loss": lambda Z: mcr2_loss(Z, labels_of(Z.shape[-2], 2), eps=EPS),
    "total_coding_rate": lambda Z: total_coding_rate_regularizer(Z, eps=EPS),
}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_both_orders(case, shape):
    Z = draw(*shape).requires_grad_()
    assert gradcheck(CASES[case], Z)
    assert gradgradcheck(CASES[case], Z)


def test_bases_receive_gradients_of_both_orders():
    Z, U = draw(5, 4).requires_grad_(), draw(2, 4, 3, seed=1).requires_grad_()
    assert gradcheck(lambda Z, U: fused_subspace_coding_rate(Z, U, eps=EPS), (Z, U))
    assert gradgradcheck(lambda Z, U: fused_subspace_coding_rate(Z, U, eps=EPS), (Z, U))


def value_and_grad(rate, Z):
    tokens = Z.clone().requires_grad_()
    value = rate(tokens)
    value.sum().backward()
    return value.detach(), tokens.grad


@pytest.mark.parametrize("shape", [(40, 8), (8, 40)])
def test_equal_to_eigenvalues_and_one_hot_memberships(shape):
    """The reference shares no code with the package."""
    Z, n = draw(*shape), shape[0]
    U, y = draw(3, shape[1], 4, seed=2), labels_of(n, 4)
    Pi = functional.one_hot(y).double()
    pairs = [
        (lambda Z: fused_coding_rate(Z, eps=EPS), lambda Z: naive.coding_rate(Z, EPS)),
        (lambda Z: fused_subspace_coding_rate(Z, U, eps=EPS), lambda Z: naive.subspace_coding_rate(Z, U, EPS)),
        (lambda Z: fused_rate_reduction(Z, y, eps=EPS), lambda Z: naive.rate_reduction(Z, Pi, EPS)),
        (lambda Z: fused_rate_reduction(Z, Pi, eps=EPS), lambda Z: naive.rate_reduction(Z, Pi, EPS)),
    ]
    for fused, plain in pairs:
        torch.testing.assert_close(value_and_grad(fused, Z), value_and_grad(plain, Z), rtol=1e-9, atol=1e-11)


def test_equal_to_autograd_through_the_operators():
    Z, y = draw(2, 9, 5), labels_of(9, 3)
    U = draw(2, 5, 3, seed=2)
    pairs = [
        (lambda Z: fused_coding_rate(Z, eps=EPS), lambda Z: ops.coding_rate(Z, eps=EPS)),
        (lambda Z: fused_subspace_coding_rate(Z, U, eps=EPS), lambda Z: ops.subspace_coding_rate(Z, U, eps=EPS)),
        (lambda Z: fused_rate_reduction(Z, y, eps=EPS), lambda Z: ops.rate_reduction(Z, y, eps=EPS)),
    ]
    for fused, plain in pairs:
        torch.testing.assert_close(value_and_grad(fused, Z), value_and_grad(plain, Z), rtol=1e-11, atol=1e-12)


class Counter(TorchDispatchMode):
    """How often each primitive ran."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.calls[name] = self.calls.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("shape", [(64, 8), (8, 64)])
def test_forward_and_backward_share_one_cholesky_factor(shape):
    Z = draw(*shape).requires_grad_()
    with Counter() as counter:
        fused_coding_rate(Z, eps=EPS).backward()
    assert counter.calls["linalg_cholesky_ex"] == 1
    assert "linalg_eigh" not in counter.calls
    assert "_linalg_svd" not in counter.calls


def test_a_value_alone_computes_no_gradient():
    Z = draw(8, 64)
    with Counter() as counter:
        fused_coding_rate(Z, eps=EPS)
    assert not {"cholesky_solve", "cholesky_inverse", "linalg_solve_triangular"} & counter.calls.keys()


def test_no_grad_makes_no_graph():
    Z = draw(6, 4).requires_grad_()
    with torch.no_grad():
        assert not fused_coding_rate(Z, eps=EPS).requires_grad
        assert not fused_subspace_coding_rate(Z, draw(2, 4, 2), eps=EPS).requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("core", [None, torch.float32])
@pytest.mark.parametrize("case", ["coding", "subspace", "reduction", "mcr2"])
def test_half_precision_is_computed_in_the_core(case, core, dtype):
    """Only the tokens are rounded: the value is that of the rounded tokens, in float32."""
    rates = {
        "coding": lambda Z, **core: fused_coding_rate(Z, eps=EPS, **core),
        "subspace": lambda Z, **core: fused_subspace_coding_rate(Z, draw(3, 8, 4).float(), eps=EPS, **core),
        "reduction": lambda Z, **core: fused_rate_reduction(Z, labels_of(20, 4), eps=EPS, **core),
        "mcr2": lambda Z, **core: mcr2_loss(Z, labels_of(20, 4), eps=EPS, **core),
    }
    rounded = draw(20, 8).to(dtype)
    value, grad = value_and_grad(lambda Z: rates[case](Z, core_dtype=core), rounded)
    exact, slope = value_and_grad(rates[case], rounded.float())
    assert value.dtype == torch.float32
    assert grad.dtype == dtype
    torch.testing.assert_close(value, exact, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad, slope.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("core", [None, torch.float32])
def test_autocast_changes_nothing(core):
    Z, U = draw(20, 8, dtype=torch.float32), draw(3, 8, 4, dtype=torch.float32)
    rates = [
        lambda Z: fused_coding_rate(Z, eps=EPS, core_dtype=core),
        lambda Z: fused_subspace_coding_rate(Z, U, eps=EPS, core_dtype=core),
        lambda Z: fused_rate_reduction(Z, labels_of(20, 4), eps=EPS, core_dtype=core),
    ]
    for rate in rates:
        plain = value_and_grad(rate, Z)
        tokens = Z.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = rate(tokens)
        value.backward()
        torch.testing.assert_close((value.detach(), tokens.grad), plain, rtol=1e-6, atol=1e-7)


def test_bases_in_float32_and_tokens_in_bfloat16_mix():
    Z, U = draw(20, 8, dtype=torch.bfloat16), draw(3, 8, 4, dtype=torch.float32).requires_grad_()
    fused_subspace_coding_rate(Z, U, eps=EPS).backward()
    assert U.grad.dtype == torch.float32


def relative(a, b):
    return float(torch.linalg.norm(a.double() - b.double()) / torch.linalg.norm(b.double()))


@pytest.mark.parametrize(("eps", "norm", "trusted"), [(0.5, 1.0, True), (0.01, 30.0, False)])
def test_float32_core_is_trusted_where_documented(eps, norm, trusted):
    """Rank 10 tokens: inside 6e-8·α·λ_max ≪ 1 both cores are right, outside only float64 is."""
    Z = functional.normalize(draw(200, 10) @ draw(10, 32, seed=1), dim=-1).float() * norm
    exact = ops.coding_rate_grad(Z.double(), eps=eps)
    doubt = 6e-8 * 32 / (200 * eps**2) * float(torch.linalg.matrix_norm(Z.double(), 2)) ** 2
    assert (doubt < 1e-2) == trusted
    double = value_and_grad(lambda Z: fused_coding_rate(Z, eps=eps), Z)[1]
    batch = Z[None]  # one set alone goes to NumPy, whose singular values of float32 carry more digits
    single = value_and_grad(lambda Z: fused_coding_rate(Z, eps=eps, core_dtype=torch.float32).sum(), batch)[1][0]
    assert relative(double, exact) < 1e-6
    assert (relative(single, exact) < 1e-3) == trusted


@pytest.mark.slow
@pytest.mark.parametrize("case", ["coding_rate", "weighted", "subspace", "membership", "total_coding_rate"])
def test_compiles_without_a_graph_break(case):
    Z, U, Pi = draw(9, 5).float(), draw(2, 5, 2, seed=3).float(), members(9, 3)
    rates = {
        **CASES,
        "subspace": lambda Z: fused_subspace_coding_rate(Z, U, eps=EPS),
        "membership": lambda Z: fused_rate_reduction(Z, Pi, eps=EPS),
    }
    compiled = torch.compile(rates[case], fullgraph=True, backend="aot_eager")
    got, expected = value_and_grad(compiled, Z), value_and_grad(rates[case], Z)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_labels_compile_with_one_graph_break():
    Z = draw(9, 5).float()
    rate = lambda Z: 2.0 * CASES["labels"](Z + 1.0)  # noqa: E731
    torch._dynamo.reset()
    compiled = torch.compile(rate, backend="aot_eager")
    torch.testing.assert_close(value_and_grad(compiled, Z), value_and_grad(rate, Z), rtol=1e-5, atol=1e-6)


def test_constants_that_ask_for_a_gradient_are_refused():
    Z = draw(6, 3)
    with pytest.raises(ValueError, match="weights must be a constant"):
        fused_coding_rate(Z, eps=EPS, weights=torch.ones(6, dtype=Z.dtype, requires_grad=True))
    with pytest.raises(ValueError, match="Pi must be a constant"):
        fused_rate_reduction(Z, members(6, 2).requires_grad_(), eps=EPS)


def test_tokens_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="Z must be finite"):
        fused_coding_rate(torch.full((3, 2), torch.nan, requires_grad=True), eps=EPS)


def test_mcr2_training_separates_classes():
    """From random features, gradient descent reaches orthogonal classes on the sphere."""
    Z, y = draw(40, 6).requires_grad_(), labels_of(40, 2)
    optimizer = torch.optim.Adam([Z], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        loss = mcr2_loss(Z, y, eps=0.5)
        loss.backward()
        optimizer.step()
    units = functional.normalize(Z.detach(), dim=-1)
    across = units[y == 0] @ units[y == 1].T
    assert float(across.abs().max()) < 0.05
    torch.testing.assert_close(loss.detach(), mcr2_loss(5.0 * Z.detach(), y, eps=0.5), rtol=0.02, atol=0.0)


def test_total_coding_rate_is_that_of_unit_features():
    Z = draw(2, 9, 4)
    expected = -sum(naive.coding_rate(functional.normalize(z, dim=-1), EPS) for z in Z) / 2
    torch.testing.assert_close(total_coding_rate_regularizer(Z, eps=EPS), expected)
    raw = -sum(naive.coding_rate(z, EPS) for z in Z) / 2
    torch.testing.assert_close(total_coding_rate_regularizer(Z, eps=EPS, normalize=False), raw)


def test_regularizer_is_minus_the_sparse_rate_reduction_of_the_chosen_layers():
    model, images = create_model("crate_micro").eval(), draw(2, 1, 8, 8).float()
    tokens, terms = model.embed(images), []
    for block in model.blocks:
        tokens = block(tokens)
        unit = functional.normalize(tokens.detach(), dim=-1).double()
        U = block.attention.U.detach().double()
        gains = [naive.coding_rate(z, EPS) - naive.subspace_coding_rate(z, U, EPS) for z in unit]
        terms.append(0.2 * unit.abs().sum(-1).mean() - sum(gains) / 2)
    for layers, expected in [(None, sum(terms) / 4), ([0, -1], (terms[0] + terms[-1]) / 2)]:
        with srr_regularizer(model, layers=layers, eps=EPS, lam=0.2) as penalty:
            model(images)
            torch.testing.assert_close(penalty().double(), expected, rtol=1e-5, atol=1e-5)


def test_regularizer_reaches_every_parameter_below_and_leaves_no_hook():
    model = create_model("crate_micro")
    with srr_regularizer(model, layers=[1]) as penalty, torch.autocast("cpu", dtype=torch.bfloat16):
        model(draw(2, 1, 8, 8).float())
        term = penalty()
    term.backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    below = {n for n, _ in model.named_parameters() if n.startswith(("embed.", "blocks.0.", "blocks.1."))}
    assert reached == below
    assert not any(block._forward_hooks for block in model.blocks)


def test_regularizer_refuses_what_it_cannot_measure():
    model = create_model("crate_micro")
    with pytest.raises(ValueError, match=r"layers must be in \[-4, 4\); got 4"), srr_regularizer(model, layers=[4]):
        pass
    with pytest.raises(ValueError, match="layers must name at least one"), srr_regularizer(model, layers=[]):
        pass
    with pytest.raises(ValueError, match="after a forward pass"), srr_regularizer(model) as penalty:
        penalty()
