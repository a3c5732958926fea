"""The sparsifying layer: its three forms against the definition, and the life of the kept matrix."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch

from srr.nn import ISTA
from srr.ops.sparse import ista_step


def layer_and_tokens(dim: int = 12, n: int = 40) -> tuple[ISTA, torch.Tensor]:
    torch.manual_seed(0)
    return ISTA(dim, step=0.2, lam=0.3).double(), torch.randn(2, n, dim, dtype=torch.float64)


def definition(Z: np.ndarray, D: np.ndarray, step: float, lam: float) -> np.ndarray:
    """Token by token in the paper's columns: x + η (Dᵀx − DᵀDx) − ηλ, then ReLU."""
    rows = [np.maximum(x + step * (D.T @ x - D.T @ (D @ x)) - step * lam, 0) for x in Z.reshape(-1, Z.shape[-1])]
    return np.stack(rows).reshape(Z.shape)


@pytest.mark.parametrize("n", [2, 40])
@pytest.mark.parametrize("training", [True, False])
def test_every_form_is_the_definition(n: int, training: bool) -> None:
    layer, Z = layer_and_tokens(n=n)
    layer.train(training)
    with torch.set_grad_enabled(training):
        out = layer(Z)
    wanted = definition(Z.numpy(), layer.D.detach().numpy(), 0.2, 0.3)
    np.testing.assert_allclose(out.detach().numpy(), wanted, rtol=1e-12, atol=1e-12)
    operator = ista_step(Z.numpy(), Z.numpy(), layer.D.detach().numpy(), step=0.2, lam=0.3)
    np.testing.assert_allclose(out.detach().numpy(), operator, rtol=1e-12, atol=1e-12)


def test_folded_and_residual_gradients_agree() -> None:
    layer, Z = layer_and_tokens()
    weights = torch.randn_like(Z)
    gradients = []
    for tokens in (Z, list(Z.reshape(-1, 1, 12))):
        layer.D.grad = None
        pieces = [layer(tokens)] if isinstance(tokens, torch.Tensor) else [layer(z) for z in tokens]
        out = torch.cat([piece.reshape(-1, 12) for piece in pieces])
        (out * weights.reshape(-1, 12)).sum().backward()
        gradients.append(layer.D.grad.clone())
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def replace_parameter(layer: ISTA) -> None:
    layer.D = torch.nn.Parameter(2 * layer.D.detach())


def assign_data(layer: ISTA) -> None:
    layer.D.data = 2 * layer.D.data


def in_place(layer: ISTA) -> None:
    with torch.no_grad():
        layer.D.mul_(2)


def load(layer: ISTA) -> None:
    layer.load_state_dict({"D": 2 * layer.D.detach()})


def load_assigned(layer: ISTA) -> None:
    layer.load_state_dict({"D": 2 * layer.D.detach()}, assign=True)


def unseen_write(layer: ISTA) -> None:
    layer.D.data.mul_(2)


def unseen_exchange_of_rows(layer: ISTA) -> None:
    layer.D.data.copy_(layer.D.data.flip(0))


def unseen_write_of_one_number(layer: ISTA) -> None:
    layer.D.data[3, 5] += 1.0


@pytest.mark.parametrize(
    "change",
    [
        replace_parameter,
        assign_data,
        in_place,
        load,
        load_assigned,
        unseen_write,
        unseen_exchange_of_rows,
        unseen_write_of_one_number,
    ],
)
@torch.no_grad()
def test_a_changed_dictionary_is_seen(change: Callable[[ISTA], None]) -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    before = layer(Z)
    change(layer)
    wanted = definition(Z.numpy(), layer.D.numpy(), 0.2, 0.3)
    assert not torch.allclose(before, layer(Z))
    np.testing.assert_allclose(layer(Z).numpy(), wanted, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_an_optimizer_step_is_seen() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    layer(Z)
    layer.D.grad = torch.ones_like(layer.D)
    torch.optim.SGD([layer.D], lr=0.1).step()
    np.testing.assert_allclose(
        layer(Z).numpy(), definition(Z.numpy(), layer.D.numpy(), 0.2, 0.3), rtol=1e-12, atol=1e-12
    )


@torch.no_grad()
def test_the_matrix_is_kept_between_calls() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    layer(Z)
    kept = layer.kept.value
    layer(Z)
    assert layer.kept.value is kept
    layer.eval()
    layer(Z)
    assert layer.kept.value is kept  # the mode is the same
    layer.train()
    assert layer.kept.value is None


@torch.no_grad()
def test_dtype_changes_are_seen() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    layer(Z)
    assert layer.float()(Z.float()).dtype == torch.float32


def test_gradients_flow_in_evaluation() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    with torch.no_grad():
        layer(Z)
    layer(Z).sum().backward()
    assert layer.D.grad is not None
    assert layer.D.grad.abs().sum() > 0


def test_a_matrix_kept_in_inference_mode_serves_autograd() -> None:
    layer, Z = layer_and_tokens()
    layer.eval().requires_grad_(False)
    with torch.inference_mode():
        layer(Z)
    Z.requires_grad_()
    layer(Z).sum().backward()
    assert Z.grad is not None


def test_functional_calls_do_not_meet_the_kept_matrix() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    with torch.no_grad():
        layer(Z)
        stack = torch.stack([layer.D, 2 * layer.D])
        out = torch.func.vmap(lambda D: torch.func.functional_call(layer, {"D": D}, (Z,)))(stack)
    for i, D in enumerate(stack):
        np.testing.assert_allclose(out[i].numpy(), definition(Z.numpy(), D.numpy(), 0.2, 0.3), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_copies_and_pickles_carry_no_kept_matrix() -> None:
    layer, Z = layer_and_tokens()
    layer.eval()
    out = layer(Z)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.kept.value is None
        torch.testing.assert_close(twin(Z), out)


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        ISTA(8, step=0)
    with pytest.raises(ValueError, match="lam"):
        ISTA(8, lam=-1)
