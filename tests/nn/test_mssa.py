"""Subspace attention layers against the NumPy operator and against a loop over heads."""

import numpy as np
import pytest
import torch

from srr.nn import CBSA, MSSA, TSSA, create_model
from srr.ops.attention import mssa

TIED, STRICT = {"tied": True}, {"tied": True, "scale": 1.0}
TRANSPOSED, FROZEN = {"transposed": True}, {"frozen": True}
KINDS = [{}, TIED, STRICT, TRANSPOSED, FROZEN]


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_heads(layer: MSSA, Z: np.ndarray, *, causal: bool = False) -> np.ndarray:
    """The definition, one head and one token set at a time, from the stored matrices alone."""
    P = layer.projection.detach().numpy()
    heads = []
    for k in range(layer.heads):
        V = Z @ P[k * layer.head_dim : (k + 1) * layer.head_dim].T
        scores = layer.scale * V @ V.T
        if causal:
            scores[np.triu_indices(len(Z), 1)] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(weights / weights.sum(1, keepdims=True) @ V)
    V = np.concatenate(heads, axis=1)
    if layer.output is not None:
        out = V @ layer.output.detach().numpy().T
        return out if layer.bias is None else out + layer.bias.detach().numpy()
    if layer.transposed:
        return V @ P.T
    return V @ P if layer.lifted else V


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_layer_is_the_definition(kind: dict[str, object], causal: bool) -> None:
    torch.manual_seed(0)
    layer = MSSA(12, 3, 4, causal=causal, **kind).double()
    Z = tokens(2, 7, 12)
    wanted = np.stack([by_heads(layer, z.numpy(), causal=causal) for z in Z])
    np.testing.assert_allclose(layer(Z).detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_is_the_numpy_operator(kind: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = MSSA(12, 3, 4, **kind).double()
    Z = tokens(2, 7, 12)
    out = layer.out.detach().numpy()
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    wanted = mssa(Z.numpy(), layer.U.detach().numpy(), out=out, bias=bias, scale=layer.scale)
    np.testing.assert_allclose(layer(Z).detach().numpy(), wanted, rtol=1e-12, atol=1e-12)


def test_scales_and_parameters_are_those_of_the_variant() -> None:
    assert MSSA(12, 3, 4).scale == 0.5
    assert MSSA(12, 3, 4, **STRICT).scale == 1.0
    for kind in (TIED, TRANSPOSED):
        assert [name for name, _ in MSSA(12, 3, 4, **kind).named_parameters()] == ["projection"]


def test_one_full_width_head_has_no_output_map() -> None:
    layer = MSSA(6, 1, 6).double()
    assert [name for name, _ in layer.named_parameters()] == ["projection"]
    Z = tokens(1, 5, 6)
    np.testing.assert_allclose(layer(Z)[0].detach().numpy(), by_heads(layer, Z[0].numpy()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_invisible(kind: dict[str, object], causal: bool) -> None:
    layer = MSSA(12, 3, 4, causal=causal, **kind).double()
    Z = tokens(2, 7, 12)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    out = layer(Z, mask)
    torch.testing.assert_close(out[0, :5], layer(Z[:1, :5])[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(out[1], layer(Z[1:])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_receives_a_gradient(kind: dict[str, object]) -> None:
    layer = MSSA(12, 3, 4, **kind)
    layer(torch.randn(2, 7, 12)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_fixed_bases_are_orthonormal_and_untrained() -> None:
    layer = MSSA(12, 3, 4, frozen=True)
    assert "projection" not in dict(layer.named_parameters())
    assert "projection" in layer.state_dict()
    P = layer.projection
    torch.testing.assert_close(P @ P.T, torch.eye(12), rtol=0, atol=1e-5)
    wide = MSSA(6, 3, 4, frozen=True)
    for k in range(3):
        torch.testing.assert_close(wide.U[k].T @ wide.U[k], torch.eye(4), rtol=0, atol=1e-5)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        MSSA(8, 0, 4)
    with pytest.raises(ValueError, match="heads \\* head_dim = dim"):
        MSSA(8, 3, 4, transposed=True)
    with pytest.raises(ValueError, match="head_dim"):
        MSSA(4, 2, 8, frozen=True)
    with pytest.raises(ValueError, match="tied and transposed"):
        MSSA(8, 2, 4, tied=True, transposed=True)
    with pytest.raises(ValueError, match="scale"):
        MSSA(8, 2, 4, scale=-1.0)


def test_the_projection_is_one_contiguous_product() -> None:
    layer = MSSA(12, 3, 4)
    assert layer.U.data_ptr() == layer.projection.data_ptr()
    assert layer.out.data_ptr() == layer.output.data_ptr()


@pytest.mark.parametrize("kind", [MSSA, TSSA, CBSA])
def test_masks_that_are_no_masks_are_refused(kind: type[MSSA]) -> None:
    """Numbers would be added to the scores of attention; nothing but True and False is taken."""
    layer, Z = kind(8, 2, 4), torch.zeros(3, 5, 8)
    for wrong in (torch.ones(3, 5), torch.ones(3, 5, dtype=torch.int64)):
        with pytest.raises(TypeError, match="mask must be boolean"):
            layer(Z, wrong)
    with pytest.raises(ValueError, match=r"mask must have shape \(\.\.\., 5\)"):
        layer(Z, torch.ones(3, 4, dtype=torch.bool))


def test_models_refuse_masks_that_do_not_fit() -> None:
    model, images = create_model("crate_micro"), torch.zeros(2, 1, 8, 8)
    with pytest.raises(TypeError, match="mask must be boolean"):
        model(images, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"mask must have shape \(\.\.\., 4\)"):
        model(images, torch.ones(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"mask must have shape \(\.\.\., 6\)"):
        create_model("crate_causal_micro")(torch.zeros(2, 6, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool))
