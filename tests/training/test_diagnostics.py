"""Layer traces against the operators applied by hand."""

import numpy as np
import pytest
import torch

import srr
from srr.nn import create_model
from srr.plots import plot_layer_trace


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=2)


def unit(Z):
    return Z / np.maximum(np.linalg.norm(Z, axis=-1, keepdims=True), 1e-300)


def test_a_network_is_measured_at_three_places_of_each_layer(model):
    x = torch.rand(5, 1, 8, 8)
    trace = srr.layer_trace(model, x, eps=0.3)
    assert trace.depth == 2
    assert model.training  # left as it was
    with torch.no_grad():
        Z = model.embed(x)
        for layer, block in enumerate(model.blocks):
            states = [Z, block.compress(Z), block(Z)]
            U = block.attention.U.double().numpy()
            bases = np.linalg.qr(U)[0]
            for at, tokens in enumerate(t.double().numpy() for t in states):
                wanted = srr.subspace_coding_rate(tokens, U, eps=0.3).mean()
                np.testing.assert_allclose(trace.compression_raw[layer, at], wanted, rtol=1e-5)
                wanted = srr.subspace_coding_rate(unit(tokens), bases, eps=0.3).mean()
                np.testing.assert_allclose(trace.compression_normalized[layer, at], wanted, rtol=1e-4)
                np.testing.assert_allclose(
                    trace.rate_raw[layer, at], srr.coding_rate(tokens, eps=0.3).mean(), rtol=1e-5
                )
                assert trace.sparsity[layer, at] == pytest.approx(np.mean(tokens != 0))
                wanted = np.abs(unit(tokens)).sum(-1).mean()
                np.testing.assert_allclose(trace.l1_normalized[layer, at], wanted, rtol=1e-5)
            D = block.dictionary.D.double().numpy()
            np.testing.assert_allclose(trace.dictionary_norm[layer], np.linalg.svd(D)[1][0] ** 2, rtol=1e-5)
            Z = states[2]


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_list_of_steps_and_the_signal_to_noise_ratio(library):
    mix = srr.subspace_mixture(n=80, d=12, K=3, p=4, noise=0.3, seed=0)
    Z, U, labels = mix.Z, mix.U, mix.labels
    if library == "torch":
        Z, U, labels = (torch.as_tensor(np.asarray(a)) for a in (Z, U, labels))
    steps = [lambda z: srr.ops.compression_step(z, U, step=0.01, eps=0.5), lambda z: 2 * z]
    trace = srr.layer_trace(steps, Z, U=U, labels=labels, eps=0.5)
    assert trace.compression_raw[0, 2] < trace.compression_raw[0, 0]  # a gradient step compresses
    assert trace.compression_raw[1, 2] > trace.compression_raw[1, 0]  # scaling does not
    np.testing.assert_allclose(trace.compression_normalized[1, 0], trace.compression_normalized[1, 2], rtol=1e-6)
    np.testing.assert_allclose(trace.snr[1, 0], trace.snr[1, 2], rtol=1e-6)
    assert np.isnan(trace.dictionary_norm).all()


def test_bad_input(model):
    Z = np.ones((4, 3))
    with pytest.raises(ValueError, match="U must be given"):
        srr.layer_trace([lambda z: z], Z)
    with pytest.raises(ValueError, match="at least one layer"):
        srr.layer_trace([], Z, U=np.eye(3)[None])
    with pytest.raises(ValueError, match="read from the network"):
        srr.layer_trace(model, torch.rand(1, 1, 8, 8), U=np.eye(16)[None])
    with pytest.raises(ValueError, match="eps"):
        srr.layer_trace([lambda z: z], Z, U=np.eye(3)[None], eps=0)
    with pytest.raises(ValueError, match="each of the 1 steps"):
        srr.layer_trace([lambda z: z], Z, U=[np.eye(3)[None]] * 2)
    with pytest.raises(ValueError, match="at least one trace"):
        plot_layer_trace({})


def test_rows_and_picture(model):
    trace = srr.layer_trace(model, torch.rand(2, 1, 8, 8))
    rows = trace.rows()
    assert [r["position"] for r in rows[:3]] == ["input", "compressed", "sparsified"]
    assert rows[5]["sparsity"] == trace.sparsity[1, 2]
    figure = plot_layer_trace({"a": trace, "b": trace})
    assert len(figure.axes) == 3
    solid = [line for line in figure.axes[0].lines if line.get_label() == "a"]
    np.testing.assert_allclose(solid[0].get_ydata(), [*trace.compression_raw[:, 0], trace.compression_raw[-1, 2]])
