"""
Verify a gradient
=================

You derived a gradient by hand. Is it right? Three checks answer that, each stronger than the one before: a
directional difference, the whole gradient against automatic differentiation, and how the error shrinks with the step.
"""

# %%
# A derivation
# ------------
#
# The coding rate of tokens :math:`Z \in \mathbb{R}^{n \times d}` is
#
# .. math:: R(Z) = \tfrac12 \log\det(I + \alpha Z^\top Z), \qquad \alpha = \frac{d}{n \varepsilon^2},
#
# and a first attempt at its gradient forgets that :math:`\alpha` multiplies the outside, too.

import matplotlib.pyplot as plt
import numpy as np

import srr

EPS = 0.5
rng = np.random.default_rng(0)
Z = rng.normal(size=(40, 12))


def rate(Z):
    return float(srr.coding_rate(Z, eps=EPS))


def first_attempt(Z):
    alpha = Z.shape[1] / (Z.shape[0] * EPS**2)
    return Z @ np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ Z)


def second_attempt(Z):
    alpha = Z.shape[1] / (Z.shape[0] * EPS**2)
    return alpha * first_attempt(Z)


# %%
# The quick check
# ---------------
#
# :func:`srr.testing.check_gradient` compares a gradient with differences of the value. It returns a report when the two
# agree, and raises an error with the same report when they do not. Here the report even says what the mistake is.

from srr.testing import check_gradient

print(check_gradient(rate, first_attempt, Z, throw=False))
print(check_gradient(rate, second_attempt, Z))

# %%
# Where a wrong factor shows
# --------------------------
#
# The remainder of a first-order expansion falls like :math:`h^2` when the gradient is right and like :math:`h` when it
# is not. On logarithmic axes the slope gives the verdict, whatever the scale of the problem.

V = rng.normal(size=Z.shape)
steps = 10.0 ** np.arange(-6.0, 0.1, 0.5)
attempts = {
    "first attempt": first_attempt,
    "second attempt": second_attempt,
    "srr.coding_rate_grad": lambda Z: srr.coding_rate_grad(Z, eps=EPS),
}

figure, axes = plt.subplots(1, 2, figsize=(10.5, 4.0), layout="constrained")
for (name, gradient), mark in zip(attempts.items(), "osx", strict=True):
    slope_along_V = np.sum(gradient(Z) * V)
    remainder = [abs(rate(Z + h * V) - rate(Z) - h * slope_along_V) for h in steps]
    order = np.polyfit(np.log(steps[2:8]), np.log(remainder[2:8]), 1)[0]
    axes[0].loglog(steps, remainder, marker=mark, label=f"{name}: order {order:.2f}")
    print(f"{name:22s} order {order:.2f}")
axes[0].set(xlabel="step h", ylabel="|R(Z + hV) − R(Z) − h⟨∇R, V⟩|", title="Remainder of the expansion")
axes[0].legend()

# %%
# Against automatic differentiation
# ---------------------------------
#
# The same operator runs on torch tensors, so autograd can differentiate the value. The closed form agrees to the last
# digits in float64. Tokens in float32 go through a float64 core, so what remains is the rounding of the result.

import torch


def relative_error(eps, dtype, core_dtype):
    tokens = torch.tensor(Z, dtype=dtype)
    truth = torch.tensor(Z, dtype=dtype).double().requires_grad_()
    srr.coding_rate(truth, eps=eps).backward()
    found = srr.coding_rate_grad(tokens, eps=eps, core_dtype=core_dtype).double()
    return float((found - truth.grad).norm() / truth.grad.norm())


distortions = 10.0 ** np.linspace(-3, 1, 9)
for label, dtype, core in (
    ("float64", torch.float64, None),
    ("float32, float64 core", torch.float32, None),
    ("float32, float32 core", torch.float32, torch.float32),
):
    errors = [max(relative_error(eps, dtype, core), 1e-17) for eps in distortions]
    axes[1].loglog(distortions, errors, marker="o", label=label)
axes[1].set(xlabel="distortion ε", ylabel="relative error", title="Closed form against autograd")
axes[1].legend()
plt.show()

# %%
# The lesson for your own derivations: look at the *order*, not at one difference. A wrong factor can hide in the noise
# of a single finite difference; it cannot hide in a slope.
