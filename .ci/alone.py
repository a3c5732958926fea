"""The wheel alone: `srr` imports without any extra, and a rate and its gradient agree with their definition."""

import math

import numpy as np

import srr

assert "site-packages" in srr.__file__, f"{srr.__file__} is not the installed wheel"
Z = np.random.default_rng(0).normal(size=(30, 8))
scale = 8 / (30 * 0.5**2)
value, grad = srr.coding_rate(Z, eps=0.5), srr.coding_rate_grad(Z, eps=0.5)
M = np.eye(8) + scale * Z.T @ Z
assert math.isclose(value, np.linalg.slogdet(M)[1] / 2, rel_tol=1e-12)
np.testing.assert_allclose(grad, scale * Z @ np.linalg.inv(M), rtol=1e-10)
print(f"srr {srr.__version__} from the wheel alone: R(Z) = {value:.6f} nats, as defined")
