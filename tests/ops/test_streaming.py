"""Second moments of tokens in pieces give the rates of the tokens as a whole, on every library."""

import itertools

import numpy as np
import pytest

import srr

EPS = 0.4


def problem(seed=0, n=240, d=7, K=4):
    random = np.random.default_rng(seed)
    Z = random.normal(size=(n, d)) @ random.normal(size=(d, d))
    labels = random.integers(K - 1, size=n)  # the last class stays empty
    return Z, labels, random.uniform(0.1, 2, size=n), np.linalg.qr(random.normal(size=(3, d, 2)))[0]


def pieces(*arrays):
    cuts = [0, 1, 50, 51, 200, len(arrays[0])]
    return [[a[i:j] for a in arrays] for i, j in itertools.pairwise(cuts)]


def library(name, x):
    if name == "torch":
        import torch

        return torch.as_tensor(x)
    if name == "jax":
        import jax.numpy as jnp

        return jnp.asarray(x)
    return x


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_rates_from_batches_are_the_rates_of_all_tokens(name):
    Z, labels, _, U = (library(name, a) for a in problem())
    moment = srr.ops.SecondMoment.zeros(7, like=Z, classes=4)
    for part, its in pieces(Z, labels):
        moment = moment.update(part, labels=its)
    found = [
        moment.coding_rate(eps=EPS),
        moment.subspace_coding_rate(U, eps=EPS),
        moment.partition_coding_rate(eps=EPS),
        moment.rate_reduction(eps=EPS),
    ]
    wanted = [
        srr.coding_rate(Z, eps=EPS),
        srr.subspace_coding_rate(Z, U, eps=EPS),
        srr.partition_coding_rate(Z, labels, eps=EPS),
        srr.rate_reduction(Z, labels, eps=EPS),
    ]
    np.testing.assert_allclose([float(f) for f in found], [float(w) for w in wanted], rtol=1e-12)


def test_rate_against_eigenvalues():
    Z = problem()[0]
    eigenvalues = np.linalg.eigvalsh(Z @ Z.T)
    truth = 0.5 * np.log1p(np.clip(eigenvalues, 0, None) * 7 / (len(Z) * EPS**2)).sum()
    moment = srr.ops.SecondMoment.zeros(7, like=Z).update(Z[:100]).update(Z[100:])
    np.testing.assert_allclose(moment.coding_rate(eps=EPS), truth, rtol=1e-12)


def test_weights_and_order_of_merging():
    Z, labels, weights, _ = problem()
    parts = [srr.ops.SecondMoment.zeros(7, like=Z).update(z, w) for z, w in pieces(Z, weights)]
    forward, backward = parts[0], parts[-1]
    for part in parts[1:]:
        forward = forward.merge(part)
    for part in parts[-2::-1]:
        backward = part.merge(backward)
    np.testing.assert_allclose(forward.moment, backward.moment, rtol=1e-13)
    wanted = srr.coding_rate(Z, eps=EPS, weights=weights)
    np.testing.assert_allclose(forward.coding_rate(eps=EPS), wanted, rtol=1e-12)
    classes = srr.ops.SecondMoment.zeros(7, like=Z, classes=4).update(Z, weights, labels)
    naive = sum(
        weights[labels == k].sum()
        / weights.sum()
        * srr.coding_rate(Z[labels == k], eps=EPS, weights=weights[labels == k])
        for k in range(3)
    )
    np.testing.assert_allclose(classes.partition_coding_rate(eps=EPS), naive, rtol=1e-12)


def test_float32_tokens_are_summed_in_float64():
    random = np.random.default_rng(1)
    Z = (1e4 + random.normal(size=(20_000, 3))).astype(np.float32)
    moment = srr.ops.SecondMoment.zeros(3, like=Z)
    for part in np.split(Z, 100):
        moment = moment.update(part)
    truth = Z.astype(np.longdouble).T @ Z.astype(np.longdouble)
    assert moment.moment.dtype == np.float64
    np.testing.assert_allclose(moment.moment, truth.astype(np.float64), rtol=1e-13)


@pytest.mark.parametrize("labeled", [False, True])
def test_dask_blocks(labeled):
    da = pytest.importorskip("dask.array")
    Z, labels, weights, _ = problem()
    chunks = (100, 90, 50)
    Zd, wd, ld = (
        da.from_array(Z, chunks=(chunks, 7)),
        da.from_array(weights, (chunks,)),
        da.from_array(labels, (chunks,)),
    )
    found = srr.ops.SecondMoment.from_dask(Zd, wd, ld if labeled else None, classes=4 if labeled else None, fan_in=2)
    wanted = srr.ops.SecondMoment.zeros(7, like=Z, classes=4 if labeled else None)
    wanted = wanted.update(Z, weights, labels if labeled else None)
    np.testing.assert_allclose(found.moment, wanted.moment, rtol=1e-12)
    np.testing.assert_allclose(found.count, wanted.count, rtol=1e-12)
    with pytest.raises(ValueError, match="whole rows"):
        srr.ops.SecondMoment.from_dask(Zd.rechunk((100, 3)))


def test_blocks_are_reduced_by_the_workers_of_a_cluster():
    """Two worker processes; the moments are those of all tokens at once, and the blocks never come here."""
    da, distributed = pytest.importorskip("dask.array"), pytest.importorskip("distributed")
    Z, labels, weights, _ = problem()
    chunks = ((100, 90, 50),)
    parts = da.from_array(Z, chunks=(*chunks, 7)), da.from_array(weights, chunks), da.from_array(labels, chunks)
    local = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**local) as cluster, distributed.Client(cluster) as client:
        found = srr.ops.SecondMoment.from_dask(*parts, classes=4, fan_in=2)
        ran = {who for story in client.run(_finished_tasks).values() for who in story}
    truth = [(Z[labels == k] * weights[labels == k, None]).T @ Z[labels == k] for k in range(4)]
    np.testing.assert_allclose(found.moment, np.stack(truth), rtol=1e-11, atol=1e-11)
    assert any("_of_block" in name for name in ran)


def _finished_tasks(dask_worker):
    return [str(record[0]) for record in dask_worker.state.log]


def test_gradients_flow_through_the_moments():
    torch = pytest.importorskip("torch")
    Z, labels, _, _ = (torch.as_tensor(a) for a in problem(n=20))
    Z.requires_grad_()
    moment = srr.ops.SecondMoment.zeros(7, like=Z, classes=4)
    moment = moment.update(Z[:9], labels=labels[:9]).update(Z[9:], labels=labels[9:])
    moment.rate_reduction(eps=EPS).backward()
    wanted = srr.rate_reduction_grad(Z.detach(), labels, eps=EPS)
    torch.testing.assert_close(Z.grad, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m, Z: m.update(Z[:, :3]), "d=7"),
        (lambda m, Z: m.update(Z, labels=np.zeros(240, int)), "no labels"),
        (lambda m, Z: m.update(Z * np.nan), "finite"),
        (lambda m, Z: m.update(Z, -np.ones(240)), "weights"),
        (lambda m, Z: m.merge(srr.ops.SecondMoment.zeros(6, like=Z)), "one shape"),
        (lambda m, Z: m.partition_coding_rate(eps=1.0), "no classes"),
        (lambda m, Z: m.update(Z).coding_rate(eps=0.0), "eps"),
    ],
)
def test_bad_input(call, words):
    Z = problem()[0]
    with pytest.raises(ValueError, match=words):
        call(srr.ops.SecondMoment.zeros(7, like=Z), Z)


def test_labels_outside_the_classes_are_refused():
    Z, labels, *_ = problem()
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        srr.ops.SecondMoment.zeros(7, like=Z, classes=2).update(Z, labels=labels)
    with pytest.raises(ValueError, match="labels in"):
        srr.ops.SecondMoment.zeros(7, like=Z, classes=2).update(Z)
