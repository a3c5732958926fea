r"""
Verify your own derivation
==========================

Suppose you derive a rate of your own: tokens are weighed by how far they are from a reference, and you would like to
descend it. This page checks such a derivation with :mod:`srr.testing`: a gradient with a wrong factor, a
proximal operator, a claimed order. Each check says where the error is.
"""

# %%
# A new rate
# ----------
# Take the rate of tokens after a linear map W, :math:`f(Z) = \tfrac12 \log\det(I + \alpha W^\top Z^\top Z W)`, with
# :math:`\alpha = p/(n\varepsilon^2)` for a map to p dimensions.

import numpy as np

import srr
from srr.testing import check_descent, check_gradient, check_identity, check_order, check_prox

rng = np.random.default_rng(0)
Z, W, eps = rng.standard_normal((20, 6)), rng.standard_normal((6, 3)), 0.5


def rate(Z):
    return srr.coding_rate(Z @ W, eps=eps)


# %%
# A first try at its gradient: the derivative of the determinant has two equal halves, and the ½ in front was
# forgotten.


def first_try(Z):
    Y = Z @ W
    alpha = Y.shape[1] / (len(Y) * eps**2)
    return 2 * alpha * Y @ np.linalg.inv(np.eye(3) + alpha * Y.T @ Y) @ W.T


print(check_gradient(rate, first_try, Z, throw=False))

# %%
# The report names the worst entry and sees that every entry is off by the same factor. The corrected gradient is that
# of the rate, sent back through the map:


def gradient(Z):
    return srr.coding_rate_grad(Z @ W, eps=eps) @ W.T


print(check_gradient(rate, gradient, Z))

# %%
# Is the step safe?
# -----------------
# The curvature of the rate is at most α, and the map adds ‖W‖². A step of 1/(α‖W‖²) must lower f by at least half of
# the step times the squared gradient; forgetting the map's norm promises too much.

alpha = srr.ops.coding_rate_smoothness(Z @ W, eps=eps)
for name, curvature in (("without the norm of W", alpha), ("with it", alpha * np.linalg.norm(W, 2) ** 2)):
    step = 1 / curvature

    def promised(Z, step=step):
        return step / 2 * np.sum(gradient(Z) ** 2)

    report = check_descent(
        rate, lambda Z, step=step: Z - step * gradient(Z), 0.1 * Z, steps=10, decrease=promised, throw=False
    )
    print(f"{name}: {report}")

# %%
# A proximal operator
# -------------------
# Shrinking rows instead of entries, with the threshold taken relative to the row: is it a proximal operator of the sum
# of row norms? The check looks for a better point and finds one; the group threshold passes.


def relative(V):
    return 0.7 * V


def row_norms(X):
    return np.linalg.norm(X, axis=-1).sum()


print(check_prox(relative, row_norms, Z, step=0.3, throw=False))
print(check_prox(lambda V: srr.ops.group_soft_threshold(V, threshold=0.3), row_norms, Z, step=0.3))

# %%
# An order, and an identity
# -------------------------
# For small tokens f is close to its quadratic part. The next term has four factors of Z, so the error must fall with
# the fourth power of the scale.


def error(scale):
    return abs(rate(scale * Z) - alpha / 2 * np.sum((scale * Z @ W) ** 2))


scales = np.geomspace(0.003, 0.03, 8)
print(check_order(error, scales, order=4))

print(
    check_identity(
        rate,
        lambda Z: 0.5 * np.linalg.slogdet(np.eye(20) + alpha * Z @ W @ W.T @ Z.T)[1],
        lambda rng: rng.standard_normal((20, 6)),
    )
)

# %%
# The picture behind the order: error against scale with the claimed slope.

import matplotlib.pyplot as plt

errors = [error(scale) for scale in scales]
fig, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
ax.loglog(scales, errors, "o", label="measured")
ax.loglog(scales, errors[-1] * (scales / scales[-1]) ** 4, "--", label="slope 4")
ax.set(xlabel="scale of the tokens", ylabel="error of the quadratic part")
ax.legend()
plt.show()
