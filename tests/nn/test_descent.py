"""Layers that descend for any weights, against definitions written out, and certificates that can fail."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import srr
from srr.nn import PRESETS, Block, EnergyAttention, FeasibleISTA, RateCompression, create_model, descent
from srr.nn.descent import norm_bound
from tests import references as ref

DIM, HEADS, P, N = 10, 3, 4, 7
PROVED = ("crate_descent", "crate_energy")


def draw(module: torch.nn.Module, seed: int = 0, scale: float = 1.0) -> torch.nn.Module:
    """The module in float64, every parameter drawn anew."""
    module, rng = module.double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return module


def centered(*shape: int, seed: int = 1) -> torch.Tensor:
    Z = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.layer_norm(Z, (shape[-1],))


def bound(M: np.ndarray) -> float:
    """Three percent above the norm, and the rounding that is bounded a priori."""
    return float(1.03 * np.linalg.norm(M, 2) * (1 + len(M) * (20 + len(M)) * 2.0**-53))


def projected(Y: np.ndarray, Z: np.ndarray) -> np.ndarray:
    return np.stack(
        [ref.naive_centered_sphere(y[None], radius=np.linalg.norm(z))[0] for y, z in zip(Y, Z, strict=True)]
    )


def test_compression_is_the_projected_gradient_step_of_its_definition():
    layer, Z = draw(RateCompression(DIM, HEADS, P)), centered(N, DIM)
    eps, U = layer.log_eps.exp().detach().numpy(), layer.U.detach().numpy()
    grads = [ref.naive_subspace_grad(Z.numpy(), U[k : k + 1], eps[k]) for k in range(HEADS)]
    beta = P / (N * eps**2)
    L = bound(sum(b * B @ B.T for b, B in zip(beta, U, strict=True)))
    step = float(layer.share.sigmoid()) / L
    want = projected(Z.numpy() - step * sum(grads), Z.numpy())
    np.testing.assert_allclose(layer(Z).detach().numpy(), want, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("causal", [False, True])
def test_energy_attention_is_the_projected_gradient_step_of_its_definition(causal):
    layer, Z = draw(EnergyAttention(DIM, HEADS, P, causal=causal)), centered(N, DIM)
    U, sigma, s = layer.U.detach().numpy(), layer.sigma.detach().numpy(), layer.log_scale.exp().detach().numpy()
    W = layer.keys.detach().numpy().reshape(HEADS, P, DIM)
    keys = np.einsum("kpd,nd->knp", W, Z.numpy())
    keys /= np.sqrt((keys**2).mean(-1, keepdims=True))
    grad = ref.complex_step_gradient(lambda X: ref.naive_softmax_energy(X, U, keys, sigma, s, causal=causal), Z.numpy())
    L = bound(sum(max(a, 0) * b * P * B @ B.T for a, b, B in zip(sigma, s, U, strict=True)))
    want = projected(Z.numpy() - grad / max(1, L), Z.numpy())
    np.testing.assert_allclose(layer(Z).detach().numpy(), want, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("steps", [1, 3])
def test_feasible_ista_is_proximal_steps_from_the_positive_part(steps):
    layer = draw(FeasibleISTA(DIM, lam=0.3, steps=steps))
    X, D = centered(N, DIM).numpy(), layer.D.detach().numpy()
    step, want = float(layer.share.sigmoid()) / bound(D.T @ D), np.maximum(X, 0)
    for _ in range(steps):
        want = ref.naive_ista(want, X, D, step, 0.3)
    np.testing.assert_allclose(layer(torch.as_tensor(X)).detach().numpy(), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("block", PROVED)
@pytest.mark.parametrize("scale", [1e-3, 1e-1, 1.0, 10.0, 1e3])
def test_no_weights_make_a_half_step_rise(block, scale):
    for seed in range(5):
        layer = draw(Block(block, DIM, HEADS, P), seed, scale)
        Z = torch.randn(4, N, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for half, found in layer.descents(Z).items():
            rounding = 1e-12 * (found.before.abs() + found.after.abs() + found.guaranteed)
            assert (found.before - found.after >= found.guaranteed - rounding).all(), (half, seed)
            assert (found.guaranteed >= 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("shape", [(40, 40), (30, 70), (200, 150)])
def test_the_bound_of_a_norm_is_one_and_is_tight(shape, scale, dtype):
    for seed, decay in enumerate((0.0, 0.05, 0.6)):
        rng = np.random.default_rng(seed)
        B = torch.as_tensor(scale * rng.standard_normal(shape) * np.exp(-decay * np.arange(shape[0]))[:, None])
        B = B.to(dtype)
        exact = np.linalg.norm(B.double().numpy(), 2) ** 2
        found = float(norm_bound(B))
        assert exact <= found <= 1.05 * exact, decay


@pytest.mark.parametrize("readable", [True, False])
def test_the_bound_of_a_norm_does_not_rest_on_the_search(readable, monkeypatch):
    B = torch.randn(60, 60, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(descent, "_top_vector", lambda G: (0.3 * torch.linalg.eigvalsh(G)[-1], torch.eye(60)[0]))
    monkeypatch.setattr(descent, "is_readable", lambda G: readable)
    assert float(norm_bound(B)) >= np.linalg.norm(B.double().numpy(), 2) ** 2


def test_the_bound_of_a_norm_has_the_derivative_of_the_norm():
    B = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(norm_bound, (B,))
    zero = torch.zeros(3, 3, requires_grad=True)
    assert norm_bound(zero).item() == 0
    norm_bound(zero).backward()
    assert torch.equal(zero.grad, torch.zeros(3, 3))


@torch.no_grad()
def test_evaluation_keeps_the_bounds_until_a_weight_changes(monkeypatch):
    layer, Z = draw(Block("crate_descent", DIM, HEADS, P)).eval(), centered(N, DIM)
    calls = []
    monkeypatch.setattr(descent, "norm_bound", lambda B: calls.append(B) or norm_bound(B))
    layer(Z)
    out = layer(Z)
    assert len(calls) == 2
    layer.dictionary.D.data.mul_(2)
    assert not torch.equal(layer(Z), out)
    assert len(calls) == 3
    layer.attention.log_eps.add_(1)
    layer(Z[:3])
    assert len(calls) == 4


def test_a_step_in_float32_is_that_of_float64_to_rounding():
    """Base width over heads, at the initial weights: the float32 core loses four digits of a move at most."""
    torch.manual_seed(0)
    layer, Z = RateCompression(234, 3, 78).eval(), torch.randn(50, 234)
    Z = functional.layer_norm(Z, (234,))
    with torch.no_grad():
        single = layer(Z) - Z
        double = layer.double()(Z.double()) - Z
    assert float((single - double).norm() / double.norm()) < 1e-2  # of which most is the slack of the bound, m d u
    along = (single * double).sum() / double.square().sum()
    assert float((single - along * double).norm() / double.norm()) < 1e-4


def test_codes_that_begin_at_zero_take_one_product():
    layer = draw(FeasibleISTA(DIM, lam=0.3, start="zero"))
    X, D = centered(N, DIM), layer.D.detach().numpy()
    step = float(layer.share.detach().sigmoid()) / bound(D.T @ D)
    want = np.maximum(step * (X.numpy() @ D - 0.3), 0)
    np.testing.assert_allclose(layer(X).detach().numpy(), want, rtol=1e-10, atol=1e-12)
    found = layer.descent(X)
    assert float(found.before) == pytest.approx(0.5 * float(X.square().sum()))
    assert float(found.before - found.after) >= float(found.guaranteed) > 0
    layer.steps = 3
    want = np.maximum(X.numpy() * 0, 0)
    for _ in range(3):
        want = ref.naive_ista(want, X.numpy(), D, step, 0.3)
    np.testing.assert_allclose(layer(X).detach().numpy(), want, rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match="start"):
        FeasibleISTA(DIM, start="none")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_several_exact_steps_are_steps_of_one_layer_and_descend(scale):
    layer = draw(Block("crate_descent", DIM, HEADS, P, steps=3), 1, scale)
    Z = centered(4, N, DIM)
    with torch.no_grad():
        three = layer.compress(Z)
        torch.testing.assert_close(layer.step(Z), three, rtol=1e-9, atol=1e-10)
        found = layer.descents(Z)["compress"]
        layer.attention.steps, want = 1, Z
        singles = [layer.descents(want)["compress"]]
        for _ in range(3):
            want = layer.attention(want) if want is not Z else layer.compress(want)
            singles.append(layer.attention.descent(want))
    torch.testing.assert_close(three, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.guaranteed, sum(step.guaranteed for step in singles[:3]), rtol=1e-6, atol=1e-9)
    rounding = 1e-12 * (found.before.abs() + found.after.abs() + found.guaranteed)
    assert (found.before - found.after >= found.guaranteed - rounding).all()
    with pytest.raises(ValueError, match="steps"):
        RateCompression(DIM, HEADS, P, steps=0)


@pytest.mark.parametrize("block", PROVED)
def test_a_mask_leaves_padding_out(block):
    layer, Z = draw(Block(block, DIM, HEADS, P)), centered(2, N, DIM)
    mask = torch.ones(2, N, dtype=torch.bool)
    mask[0, 5:] = False
    moved = layer.compress(Z, mask)
    close = {"rtol": 1e-7, "atol": 1e-8}  # a layer's factor may lose digits to its condition, up to 1e-3 of a rate
    torch.testing.assert_close(moved[0, :5], layer.compress(Z[0, :5]), **close)
    torch.testing.assert_close(moved[1], layer.compress(Z[1]), **close)
    found = layer.descents(Z, mask)["compress"]
    assert (found.after <= found.before).all()


@pytest.mark.parametrize("block", PROVED)
def test_the_first_rows_are_those_of_all(block):
    layer, Z = draw(Block(block, DIM, HEADS, P)), centered(2, N, DIM)
    torch.testing.assert_close(layer(Z, rows=1), layer(Z)[:, :1])


def test_the_causal_energy_commutes_with_truncation_and_extends():
    layer, Z = draw(Block("crate_energy", DIM, HEADS, P, causal=True)), centered(2, N, DIM)
    whole = layer(Z)
    torch.testing.assert_close(whole[:, :4], layer(Z[:, :4]), rtol=1e-10, atol=1e-12)
    first, past = layer.extend(Z[:, :4])
    rest, _ = layer.extend(Z[:, 4:], past)
    torch.testing.assert_close(torch.cat((first, rest), 1), whole, rtol=1e-10, atol=1e-12)


def test_exact_compression_has_no_causal_form():
    with pytest.raises(ValueError, match="no causal form"):
        Block("crate_descent", DIM, HEADS, P, causal=True)


def test_energy_maps_are_the_weights_of_the_keys():
    layer, Z = draw(EnergyAttention(DIM, HEADS, P)), centered(N, DIM)
    maps, keys = layer.attention_map(Z).detach().numpy(), layer.coordinates(Z).detach().numpy()
    V = np.einsum("nd,kdp->knp", Z.numpy(), layer.U.detach().numpy())
    for k in range(HEADS):
        scores = float(layer.log_scale[k].exp()) * V[k] @ keys[k].T
        for i in range(N):
            np.testing.assert_allclose(maps[k, i], ref.naive_softmax(list(scores[i])), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("block", PROVED)
def test_derivatives_are_those_of_finite_differences(block):
    layer, Z = draw(Block(block, 6, 2, 2), 3), centered(1, 4, 6).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def run(Z: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (Z,))

    assert torch.autograd.gradcheck(run, (Z, *layer.parameters()), atol=1e-6)


@pytest.mark.parametrize("block", PROVED)
def test_compiles_without_a_graph_break(block):
    layer, Z = Block(block, DIM, HEADS, P), centered(2, N, DIM).float()
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(Z), layer(Z), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", ["micro", "tiny", "small", "base"])
def test_presets_have_the_parameters_of_crate_within_three_percent(size):
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in create_model(name).parameters())
            for name in (f"crate_{size}", f"crate_descent_{size}")
        ]
    assert f"crate_descent_{size}" in PRESETS
    assert abs(counts[1] / counts[0] - 1) < 0.03


@pytest.mark.parametrize("block", PROVED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_certificate_of_a_trained_network_has_no_violation(block, dtype):
    torch.manual_seed(0)
    model, images = create_model("crate_micro", block=block), torch.randn(32, 1, 8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(10):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), torch.arange(32) % 10).backward()
        optimizer.step()
    found = srr.certify(model, images.to(dtype))
    assert len(found.half_steps) == 8
    assert found.violations == found.rises == 0
    assert "256 of 256 half-steps are proved to descend: 0 violations" in str(found)


@pytest.mark.parametrize(("module", "half"), [(RateCompression, "compress"), (FeasibleISTA, "sparsify")])
def test_a_certificate_sees_a_step_that_is_too_long(module, half, monkeypatch):
    torch.manual_seed(0)
    name = "curvature" if module is RateCompression else "_bound"
    honest = getattr(module, name)
    monkeypatch.setattr(module, name, lambda self, *weights: honest(self, *weights) / 50)
    found = srr.certify(create_model("crate_micro", block="crate_descent"), torch.randn(8, 1, 8, 8))
    assert found.violations > 0
    assert {step.half for step in found.half_steps if step.violations} == {half}


def test_released_layers_are_measured_on_what_they_are_derived_from():
    torch.manual_seed(0)
    model, images = create_model("crate_micro"), torch.randn(3, 1, 8, 8)
    found = srr.certify(model, images, eps=0.7)
    block = model.double().blocks[0]
    with torch.no_grad():
        Z = model.embed(images.double())
        half = block.compress(Z)
        X = block.dictionary_norm(half)
        codes = block.dictionary(X)
    U, D = block.attention.U.detach().numpy(), block.dictionary.D.detach().numpy()
    for at, tokens in (("before", Z), ("after", half)):
        want = [ref.naive_subspace_coding_rate(z, U, 0.7) for z in tokens.numpy()]
        np.testing.assert_allclose(getattr(found.half_steps[0], at), want, rtol=1e-10)
    for at, A in (("before", X), ("after", codes)):
        want = [ref.naive_lasso(a, x, D, 0.1) for a, x in zip(A.numpy(), X.numpy(), strict=True)]
        np.testing.assert_allclose(getattr(found.half_steps[1], at), want, rtol=1e-10)
    assert found.violations == 0
    assert found.rises == sum(int(np.sum(step.after > step.before)) for step in found.half_steps)


def test_halves_without_an_objective_are_named():
    found = srr.certify(create_model("crate_micro", block="attention_only"), torch.randn(2, 1, 8, 8))
    assert found.half_steps == ()
    assert len(found.without) == 8
    assert "8 halves" in found.verdict
