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
        first = np.linalg.qr(model.blocks[0].attention.U.double().numpy())[0]
        for layer, block in enumerate(model.blocks):
            states = [Z, block.compress(Z), block(Z)]
            U = block.attention.U.double().numpy()
            bases = np.linalg.qr(U)[0]
            for at, tokens in enumerate(t.double().numpy() for t in states):
                wanted = srr.subspace_coding_rate(tokens, U, eps=0.3).mean()
                np.testing.assert_allclose(trace.compression_raw[layer, at], wanted, rtol=1e-5)
                wanted = srr.subspace_coding_rate(unit(tokens), bases, eps=0.3).mean()
                np.testing.assert_allclose(trace.compression_normalized[layer, at], wanted, rtol=1e-4)
                wanted = srr.subspace_coding_rate(unit(tokens), first, eps=0.3).mean()
                np.testing.assert_allclose(trace.compression_common[layer, at], wanted, rtol=1e-4)
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
    with pytest.raises(ValueError, match="takes neither U nor labels"):
        srr.layer_trace([lambda z: z], Z, U=np.eye(3)[None], measure="released")
    with pytest.raises(ValueError, match="measure must be"):
        srr.layer_trace(model, torch.rand(1, 1, 8, 8), measure="paper")
    with pytest.raises(ValueError, match="at least one trace"):
        plot_layer_trace({})


def test_rows_and_picture(model):
    trace = srr.layer_trace(model, torch.rand(2, 1, 8, 8))
    rows = trace.rows()
    assert [r["position"] for r in rows[:3]] == ["input", "compressed", "sparsified"]
    assert rows[5]["sparsity"] == trace.sparsity[1, 2]
    figure = plot_layer_trace({"a": trace, "b": trace})
    own = {"compression_raw", "compression_normalized"}  # measured under the codebook of the layer
    for axis, field in zip(
        figure.axes, ("compression_raw", "compression_normalized", "compression_common", "sparsity"), strict=True
    ):
        (line,) = (line for line in axis.lines if line.get_label() == "a")
        x, y = line.get_data()
        runs = np.split(y, np.flatnonzero(np.isnan(y)))
        runs = [run[~np.isnan(run)] for run in runs if (~np.isnan(run)).any()]
        assert len(runs) == (trace.depth if field in own else 1)  # no line joins values under two codebooks
        np.testing.assert_array_equal(np.concatenate(runs), getattr(trace, field).ravel())
        assert (np.diff(x[~np.isnan(y)]) >= 0).all()
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert all("U of the layer" in label for label in labels[:2])
    assert "U of layer 0" in labels[2]


def test_the_common_measure_is_one_function_of_the_tokens(model):
    trace = srr.layer_trace(model, torch.rand(4, 1, 8, 8), eps=0.3)
    for field in ("compression_common", "rate_raw", "sparsity"):
        values = getattr(trace, field)
        np.testing.assert_array_equal(values[:-1, 2], values[1:, 0])
    assert abs(trace.compression_raw[0, 2] - trace.compression_raw[1, 0]) > 0.01  # the same tokens, another codebook
    np.testing.assert_allclose(trace.compression_common[0], trace.compression_normalized[0])


@pytest.mark.parametrize("images", [1, 5])
def test_the_released_measure_is_its_naive_definition(images):
    torch.manual_seed(1)
    model = create_model("crate_micro", dim=16, heads=2, head_dim=4, depth=2).double()
    x = torch.rand(images, 1, 8, 8, dtype=torch.float64)
    trace = srr.layer_trace(model, x, measure="released")
    with torch.no_grad():
        Z = model.embed(x)
        for layer, block in enumerate(model.blocks):
            after, rates = block(Z).numpy(), []
            for image in Z.numpy():
                norm = block.attention_norm
                H = (image - image.mean(-1, keepdims=True)) / np.sqrt(image.var(-1, keepdims=True) + norm.eps)
                H = H * norm.weight.numpy() + norm.bias.numpy()
                total = 0.0
                for U in block.attention.U.numpy():
                    V = H @ U
                    V /= np.linalg.norm(V, axis=-1, keepdims=True)
                    n, p = V.shape
                    total += 0.5 * np.linalg.slogdet(np.eye(n) + p / (n * 0.01) * V @ V.T)[1]
                rates.append(total)
            np.testing.assert_allclose(trace.rate[layer], np.mean(rates), rtol=1e-10)
            mean, spread = float(np.mean(rates)), 0.0
            if images > 1:
                spread = (sum((r - mean) ** 2 for r in rates) / (images - 1)) ** 0.5
            np.testing.assert_allclose(trace.rate_deviation[layer], spread, rtol=1e-8)
            shares = [np.count_nonzero(a) / a.size for a in after]
            np.testing.assert_allclose(trace.sparsity[layer], np.mean(shares), rtol=1e-12)
            assert (trace.sparsity_deviation[layer] > 0) == (images > 1)
            Z = torch.as_tensor(after)
