"""Data that needs no download: the digits of scikit-learn and synthetic token sets."""

from __future__ import annotations

import numpy as np
import torch

from srr.training.config import DataConfig
from srr.training.data.base import DataSpec, Source, TensorSamples, channel_statistics, fixed_split


def digits(config: DataConfig) -> Source:
    """The 1,797 8×8 digits bundled with scikit-learn; a fixed fifth is held out."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.as_tensor(found.images, dtype=torch.float32)[:, None] / 16  # (1797, 1, 8, 8)
    y = torch.as_tensor(found.target, dtype=torch.int64)
    train, val = fixed_split(len(y), config.held_out)
    mean, std = channel_statistics(x[train])
    spec = DataSpec("digits", "image", (1, 8, 8), tuple(str(c) for c in range(10)), mean, std)
    return Source(spec, TensorSamples(x[train], y[train]), TensorSamples(x[val], y[val]))


def mixture(config: DataConfig) -> Source:
    """Token sets whose label is the subspace that most of their tokens lie on.

    Each set has ``tokens`` tokens of ``token_dim`` coordinates; two thirds lie on the subspace of its class,
    the others on subspaces drawn at random; all get Gaussian noise of the given size. A set is an image of one
    channel whose rows are its tokens, so a patch of (1, token_dim) is one token.
    """
    K, d = config.classes, config.token_dim
    if K < 2 or d < K:
        raise ValueError(f"data.classes must be in [2, token_dim={d}]; got {K}")
    generator = np.random.default_rng(0)  # the data set is fixed; the run's seed decides order and weights
    p = max(1, d // K)
    bases = np.linalg.qr(generator.normal(size=(d, d)))[0][:, : K * p].reshape(d, K, p)
    y = generator.integers(K, size=config.samples)
    own = generator.random((config.samples, config.tokens)) < 2 / 3
    subspace = np.where(own, y[:, None], generator.integers(K, size=own.shape))
    codes = generator.normal(size=(*own.shape, p)) / np.sqrt(p)
    x = np.einsum("dkp,...kp->...d", bases, codes[..., None, :] * np.eye(K)[subspace][..., None])
    x = x + config.noise * generator.normal(size=x.shape) / np.sqrt(d)
    tokens = torch.as_tensor(x, dtype=torch.float32)[:, None]  # (N, 1, tokens, token_dim)
    labels = torch.as_tensor(y, dtype=torch.int64)
    train, val = fixed_split(config.samples, config.held_out)
    names = tuple(f"subspace {k}" for k in range(K))
    spec = DataSpec("mixture", "image", (1, config.tokens, d), names, (0.0,), (1.0,), patch=(1, d))
    return Source(spec, TensorSamples(tokens[train], labels[train]), TensorSamples(tokens[val], labels[val]))
