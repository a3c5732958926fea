"""srr.derive: gradients and Hessians of the library's rates, nothing written by hand; closed forms told apart."""

import array_api_compat.numpy
import numpy as np
import pytest
import torch

import srr
from srr import derive as d
from tests.backends import BACKENDS, to_numpy
from tests.references import (
    analytic_coding_rate,
    analytic_partition_coding_rate,
    analytic_subspace_coding_rate,
    complex_step_gradient,
    naive_coding_rate,
    naive_partition_coding_rate,
    naive_sparse_rate_reduction,
    naive_subspace_coding_rate,
)

N, D, P, K, M, EPS = 9, 5, 3, 2, 4, 0.6
RNG = np.random.default_rng(11)
Z_, U_, E_ = RNG.standard_normal((N, D)), RNG.standard_normal((K, D, P)), RNG.standard_normal((N, D))
PI_ = RNG.uniform(0.1, 1.0, (N, K))
PI_ /= PI_.sum(axis=1, keepdims=True)
W_ = RNG.uniform(0.2, 1.5, N)

Z, A, W = d.Matrix("Z", "n", "d"), d.Matrix("A", "n", "m"), d.Vector("w", "n", positive=True)
Dict = d.Matrix("D", "d", "m")
U, Pi = d.Family("U", "d", "p", over="K"), d.Matrix("Pi", "n", "K", positive=True)
eps, alpha, beta, lam = d.Scalar("eps"), d.Scalar("alpha"), d.Scalar("beta"), d.Scalar("lam")
n, dim, p = d.size("n"), d.size("d"), d.size("p")


def rate(weights=None):
    """½ logdet(I + α ZᵀWZ), α = d / (ε² Σw)."""
    gram = Z.T @ Z if weights is None else Z.T @ d.diag(weights) @ Z
    count = n if weights is None else d.total(weights)
    return d.half * d.logdet(d.eye("d") + dim / (count * eps**2) * gram)


R = rate()
R_HEADS = d.half * d.Sum("k", d.logdet(d.eye("p") + p / (n * eps**2) * U["k"].T @ Z.T @ Z @ U["k"]))
R_PARTS = d.Sum("k", d.total(Pi.column("k")) / n * rate(Pi.column("k")))

RATES = {
    "R": (R, {}, srr.coding_rate, srr.coding_rate_grad, naive_coding_rate, analytic_coding_rate),
    "R weighted": (
        rate(W), {"w": W_},
        lambda Z, w, eps: srr.coding_rate(Z, weights=w, eps=eps),
        lambda Z, w, eps: srr.coding_rate_grad(Z, weights=w, eps=eps),
        lambda Z, w, eps: naive_coding_rate(Z, eps, w),
        lambda Z, w, eps: analytic_coding_rate(Z, eps, w),
    ),
    "R heads": (
        R_HEADS, {"U": U_}, srr.subspace_coding_rate, srr.subspace_coding_rate_grad,
        naive_subspace_coding_rate, analytic_subspace_coding_rate,
    ),
    "R parts": (
        R_PARTS, {"Pi": PI_}, srr.partition_coding_rate, srr.partition_coding_rate_grad,
        naive_partition_coding_rate, analytic_partition_coding_rate,
    ),
    "rate reduction": (
        R - R_PARTS, {"Pi": PI_}, srr.rate_reduction, srr.rate_reduction_grad,
        lambda Z, Pi, eps: naive_coding_rate(Z, eps) - naive_partition_coding_rate(Z, Pi, eps),
        lambda Z, Pi, eps: analytic_coding_rate(Z, eps) - analytic_partition_coding_rate(Z, Pi, eps),
    ),
    "sparse rate reduction, smooth part": (
        R - R_HEADS, {"U": U_},
        lambda Z, U, eps: srr.sparse_rate_reduction(Z, U, eps=eps, lam=0.0), srr.sparse_rate_reduction_grad,
        lambda Z, U, eps: naive_sparse_rate_reduction(Z, U, eps, 0.0),
        lambda Z, U, eps: analytic_coding_rate(Z, eps) - analytic_subspace_coding_rate(Z, U, eps),
    ),
}  # fmt: skip


def close(got, wanted, tolerance=1e-12):
    scale = max(1e-300, float(np.max(np.abs(wanted), initial=0.0)))
    got = to_numpy(got)
    assert got.shape == np.shape(wanted)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("wide", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("name", RATES)
def test_rates_and_their_gradients(name, wide):
    expression, more, value, gradient, naive, analytic = RATES[name]
    rows = slice(None, 4 if wide else None)
    tokens = Z_[rows]
    more = {key: x[rows] if len(x) == N else x for key, x in more.items()}
    arguments = {"Z": tokens, **more, "eps": EPS}
    derived = d.grad(expression, Z)(**arguments)
    close(expression(**arguments), naive(tokens, *more.values(), eps=EPS))
    close(expression(**arguments), value(tokens, *more.values(), eps=EPS))
    close(derived, gradient(tokens, *more.values(), eps=EPS))
    close(derived, complex_step_gradient(lambda X: analytic(X, *more.values(), eps=EPS), tokens))


def test_the_gradient_in_the_bases_is_that_of_every_member():
    derived = d.grad(R_HEADS, U["k"])
    for k in range(K):

        def of_one(B, k=k):
            return analytic_subspace_coding_rate(
                Z_, np.concatenate([U_[:k].astype(complex), B[None], U_[k + 1 :]]), EPS
            )

        close(derived(Z=Z_, U=U_, eps=EPS, k=k), complex_step_gradient(of_one, U_[k]))


def test_the_gradient_in_memberships():
    derived = d.grad(R_PARTS, Pi.column("j"))
    for j in range(K):

        def of_one(column, j=j):
            weights = PI_.astype(complex)
            weights[:, j] = column
            return sum(
                w.sum()
                / N
                * 0.5
                * np.sum(np.log(np.linalg.eigvals(np.eye(D) + D / (w.sum() * EPS**2) * (Z_.T * w) @ Z_)))
                for w in weights.T
            )

        close(derived(Z=Z_, Pi=PI_, eps=EPS, j=j), complex_step_gradient(of_one, PI_[:, j]), 1e-11)


def test_sparse_coding():
    A_, D_ = RNG.standard_normal((N, M)), RNG.standard_normal((D, M))
    loss = d.half * d.squared_norm(Z - A @ Dict.T) + lam * d.total(d.absolute(A))
    close(loss(Z=Z_, A=A_, D=D_, lam=0.3), 0.5 * np.sum((Z_ - A_ @ D_.T) ** 2) + 0.3 * np.sum(np.abs(A_)))
    gradient = d.grad(loss, A)
    close(gradient(Z=Z_, A=A_, D=D_, lam=0.3), (A_ @ D_.T - Z_) @ D_ + 0.3 * np.sign(A_))
    positive = np.abs(A_) + 3.0  # from here no entry is thresholded, and the step is the gradient
    step = (positive - srr.ista_step(positive, Z_, D_, step=1e-3, lam=0.3)) / 1e-3
    close(gradient(Z=Z_, A=positive, D=D_, lam=0.3), step, 1e-11)
    assert d.equal(d.grad(loss, Dict), (A @ Dict.T - Z).T @ A).how == "symbolic"
    assert d.grad(loss, lam) == d.total(d.absolute(A))
    shrunk = d.shrink(A, lam)
    close(shrunk(A=A_, lam=0.3), srr.ops.soft_threshold(A_, threshold=0.3))
    close(d.grad(d.total(shrunk), A)(A=A_, lam=0.3), (np.abs(A_) > 0.3).astype(float))


def bound(f):
    """Σ_k ⟨π_k, 1⟩/(2n) Σ_i f of the weighted second moment of coordinate i, the compression term of (26)."""
    pi = Pi.column("k")
    moments = d.power(Z @ U["k"], 2).T @ pi / d.total(pi)
    return d.Sum("k", d.total(pi) / (2 * n) * d.total(f(moments)))


def test_variational_bound():
    memberships = srr.ops.subspace_membership(Z_, U_)
    derived = d.grad(bound(d.log1p), Z)
    arguments = {"Z": Z_, "U": U_, "Pi": memberships}
    close(derived(**arguments), -srr.ops.tssa(Z_, U_))

    def naive(X):
        moments = [w @ (X @ B) ** 2 / w.sum() for w, B in zip(memberships.T, U_, strict=True)]
        masses = memberships.sum(axis=0) / (2 * N)
        return sum(mass * np.sum(np.log(1 + moment)) for mass, moment in zip(masses, moments, strict=True))

    close(bound(d.log1p)(**arguments), naive(Z_))
    close(derived(**arguments), complex_step_gradient(naive, Z_))


def test_variational_bound_of_a_function_given_by_name():
    """One derivation for every f: -(1/n) Σ diag(π_k) V_k diag f′[…] U_kᵀ is minus the gradient."""
    f = d.Function("f")
    derived = d.grad(bound(f), Z)
    pi, V = Pi.column("k"), Z @ U["k"]
    slopes = d.Function("f", order=1)(d.power(V, 2).T @ pi / d.total(pi))
    closed = d.Sum("k", d.diag(pi) @ V @ d.diag(slopes) @ U["k"].T) / n
    assert d.equal(derived, closed).how == "symbolic"
    got = derived(Z=Z_, U=U_, Pi=PI_, f_prime=lambda x: 1 / (1 + x))
    close(got, d.grad(bound(d.log1p), Z)(Z=Z_, U=U_, Pi=PI_))


Y, sigma, s = d.Family("Y", "m", "p", over="K"), d.Family("sigma", over="K"), d.Family("s", over="K")
ENERGY = d.Sum("k", sigma["k"] / s["k"] * d.total(d.logsumexp(s["k"] * Z @ U["k"] @ Y["k"].T)))


def test_softmax_energy():
    keys, signs, sharpness = RNG.standard_normal((K, M, P)), np.asarray([1.0, -0.7]), np.asarray([0.8, 1.9])
    arguments = {"Z": Z_, "U": U_, "Y": keys, "sigma": signs, "s": sharpness}

    def naive(X):
        return sum(
            signs[k] / sharpness[k] * np.sum(np.log(np.sum(np.exp(sharpness[k] * X @ U_[k] @ keys[k].T), axis=1)))
            for k in range(K)
        )

    close(ENERGY(**arguments), naive(Z_))
    close(d.grad(ENERGY, Z)(**arguments), complex_step_gradient(naive, Z_))
    own = {**arguments, "Y": Z_ @ U_, "sigma": np.ones(K), "s": np.full(K, 0.7)}  # keys frozen in the tokens
    close(d.grad(ENERGY, Z)(**own), srr.mssa(Z_, U_, scale=0.7))
    assert repr(d.grad(ENERGY, Z)) == 'Sum("k", sigma[k] * softmax(s[k] * Z @ U[k] @ Y[k].T) @ Y[k] @ U[k].T)'


def test_gradients_in_weights_and_in_the_scalars_of_a_family():
    got = d.grad(rate(W), W)(Z=Z_, w=W_, eps=EPS)
    close(got, complex_step_gradient(lambda w: analytic_coding_rate(Z_, EPS, w), W_))
    keys, signs, sharpness = RNG.standard_normal((K, M, P)), np.asarray([1.0, -0.7]), np.asarray([0.8, 1.9])

    def energies(temperatures):
        """Each head's share of the energy, its own sharpness varied."""
        t = temperatures
        return [
            signs[k] / t[k] * np.sum(np.log(np.sum(np.exp(t[k] * Z_ @ U_[k] @ keys[k].T), axis=1))) for k in range(K)
        ]

    arguments = {"Z": Z_, "U": U_, "Y": keys, "sigma": signs, "s": sharpness}
    wanted = complex_step_gradient(lambda t: sum(energies(t)), sharpness)
    for k in range(K):
        close(d.grad(ENERGY, s["k"])(**arguments, k=k), wanted[k], 1e-11)
        linear = {name: x for name, x in arguments.items() if name != "sigma"}
        close(d.grad(ENERGY, sigma["k"])(**linear, k=k), energies(sharpness)[k] / signs[k])


@pytest.mark.parametrize(
    ("expression", "more", "hvp"),
    [
        (R, {}, srr.ops.coding_rate_hvp),
        (R_HEADS, {"U": U_}, srr.ops.subspace_coding_rate_hvp),
    ],
    ids=["R", "R heads"],
)
def test_hessians(expression, more, hvp):
    arguments = {"Z": Z_, **more, "eps": EPS, "E": E_}
    wanted = hvp(Z_, E_, *more.values(), eps=EPS)
    close(d.hessian_product(expression, Z, "E")(**arguments), wanted)
    form = d.quadratic_form(expression, Z, "E")
    close(form(**arguments), np.sum(E_ * wanted))
    along = d.quadratic_form(expression, Z, "E") - d.inner(
        d.Matrix("E", "n", "d"), d.hessian_product(expression, Z, "E")
    )
    assert d.equal(along, d.zeros()).how == "symbolic"


@pytest.mark.parametrize("expression", [R - R_PARTS, ENERGY, bound(d.log1p)], ids=["reduction", "energy", "bound"])
def test_hessian_quadratic_forms_against_central_differences_of_gradients(expression):
    values = {
        "Z": Z_, "U": U_, "Pi": PI_, "eps": EPS,
        "Y": RNG.standard_normal((K, M, P)), "sigma": np.asarray([1.0, -0.7]), "s": np.asarray([0.8, 1.9]),
    }  # fmt: skip
    gradient, form = d.grad(expression, Z), d.quadratic_form(expression, Z, "E")
    used = {name: x for name, x in values.items() if name in gradient.arguments}
    h = 1e-5
    ahead, behind = (gradient(**{**used, "Z": Z_ + sign * h * E_}) for sign in (1, -1))
    close(form(**used, E=E_), np.sum(E_ * (ahead - behind)) / (2 * h), 1e-8)  # h² and rounding/h


# Closed forms.

GRADIENT = d.grad(d.half * d.logdet(d.eye("d") + alpha * Z.T @ Z), Z)
S, T = d.Matrix("S", "d", "d"), d.Matrix("T", "d", "d")
RESOLVENT = d.inv(d.eye("d") + alpha * Z.T @ Z)
OTHER = d.inv(d.eye("n") + alpha * Z @ Z.T)


BETA = p / (n * eps**2)
HEADS = d.grad(R_HEADS, Z)


def of_heads(outside, inside):
    """β Σ (I + β V_k V_kᵀ)⁻¹ V_k U_kᵀ with two scales to be mistaken in."""
    V = Z @ U["k"]
    return outside * d.Sum("k", d.inv(d.eye("n") + inside * V @ V.T) @ V @ U["k"].T)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (alpha * Z @ RESOLVENT, alpha * OTHER @ Z),
        (RESOLVENT @ Z.T, Z.T @ OTHER),
        (alpha * Z.T @ Z @ RESOLVENT, d.eye("d") - RESOLVENT),
        (alpha * Z @ RESOLVENT @ Z.T, d.eye("n") - OTHER),
        (RESOLVENT.T, RESOLVENT),
        (Z @ d.inv(d.eye("d") / alpha + Z.T @ Z), alpha * OTHER @ Z),
        (d.logdet(d.eye("d") + alpha * Z.T @ Z), d.logdet(d.eye("n") + alpha * Z @ Z.T)),
        (d.logdet(2 * d.eye("d") + alpha * Z.T @ Z), dim * d.log(2) + d.logdet(d.eye("d") + alpha / 2 * Z.T @ Z)),
        (d.trace(RESOLVENT) - dim, d.trace(OTHER) - n),
        (alpha * d.trace(Z.T @ Z @ RESOLVENT), dim - d.trace(RESOLVENT)),
        (alpha * d.trace(Z @ RESOLVENT @ Z.T), n - d.trace(OTHER)),
        (d.trace(S @ T @ S.T), d.trace(S.T @ S @ T)),
        (d.inv(S @ T), d.inv(T) @ d.inv(S)),
        (S @ d.inv(S), d.eye("d")),
        (d.inv(d.inv(S).T), S.T),
        (d.logdet(d.inv(S) @ T), d.logdet(T) - d.logdet(S)),
        (W.T @ Z @ RESOLVENT @ Z.T @ W, W.T @ OTHER @ Z @ Z.T @ W),
        (
            d.diag(W) @ Z @ d.inv(d.eye("d") + Z.T @ d.diag(W) @ Z),
            d.inv(d.eye("n") + d.diag(W) @ Z @ Z.T) @ d.diag(W) @ Z,
        ),
        (d.trace(d.diag(W) @ Z @ Z.T), d.trace(Z.T @ d.diag(W) @ Z)),
        (d.diag(W) @ d.diag(W) @ Z, d.diag(d.hadamard(W, W)) @ Z),
        (d.hadamard(Z, W @ d.ones("d").T), d.diag(W) @ Z),
        (d.softmax(Z) @ d.ones("d"), d.ones("n")),
        (1 / (1 + alpha) - 1, -alpha / (1 + alpha)),
        ((alpha + beta) ** 2 * Z / (alpha + beta), alpha * Z + beta * Z),
        (d.Sum("k", U["k"] @ U["k"].T), d.Sum("l", U["l"] @ U["l"].T)),
        (d.Sum("k", U["k"]) @ d.Sum("k", U["k"]).T, d.Sum("k", d.Sum("l", U["l"] @ U["k"].T))),
        (d.inner(Z, A @ Dict.T), d.trace(Dict @ A.T @ Z)),
        (d.Sum("k", sigma["k"]) ** 2, d.Sum("k", d.Sum("l", sigma["k"] * sigma["l"]))),
        ((1 / d.Sum("k", s["k"])) * d.Sum("l", s["l"]) ** 2 * d.Sum("l", s["l"]), d.Sum("k", s["k"]) ** 2),
    ],
)  # fmt: skip
def test_identities_of_the_normal_form(left, right):
    verdict = d.equal(left, right)
    assert verdict, str(verdict)
    assert verdict.how == "symbolic"
    assert verdict.difference < 1e-10


def test_what_the_normal_form_misses_is_found_by_draws():
    verdict = d.equal(d.exp(alpha + beta), d.exp(alpha) * d.exp(beta))
    assert verdict.equal
    assert verdict.how == "numeric"
    assert d.equal(R, lambda Z, eps: srr.coding_rate(Z, eps=eps)).how == "numeric"


def test_no_identity_where_its_conditions_fail():
    """Z (ZᵀZ)⁻¹ Zᵀ is a projection, not the identity; the Gram matrix of the other side has no inverse."""
    assert not d.equal(Z @ d.inv(Z.T @ Z) @ Z.T, d.eye("n"))
    assert d.equal(d.inv(Z.T @ Z) @ Z.T @ Z, d.eye("d")).how == "symbolic"
    assert not d.equal(RESOLVENT @ S, S @ RESOLVENT)
    assert not d.equal(d.logdet(d.eye("d") + alpha * Z.T @ Z), d.logdet(d.eye("d") + Z.T @ Z))
    assert not d.equal(d.trace(S @ T), d.trace(S.T @ T))
    assert not d.equal(d.trace(RESOLVENT), d.trace(OTHER))


@pytest.mark.parametrize(
    ("derived", "closed", "correction"),
    [
        (GRADIENT, 2 * alpha * Z @ RESOLVENT, "multiply it by 1/2"),
        (GRADIENT, d.half * alpha * Z @ RESOLVENT, "multiply it by 2"),
        (GRADIENT, -alpha * Z @ RESOLVENT, "its sign is wrong"),
        (GRADIENT, Z @ RESOLVENT, "multiply it by alpha"),
        (GRADIENT, alpha**2 * Z @ RESOLVENT, "multiply it by 1 / alpha"),
        (GRADIENT, 2 * Z @ RESOLVENT, "multiply it by alpha / 2"),
        (GRADIENT, alpha * RESOLVENT @ Z.T, "transpose it"),
        (GRADIENT + beta * Z, alpha * Z @ RESOLVENT + alpha * Z, "in the term alpha * Z: write beta for alpha"),
        (GRADIENT, beta * Z @ d.inv(d.eye("d") + beta * Z.T @ Z), "write alpha for beta"),
        (alpha**2 * beta * Z, alpha * beta**2 * Z, "exchange alpha and beta"),
        (GRADIENT, alpha * Z @ d.inv(d.eye("d") - alpha * Z.T @ Z), "in the term -alpha * Z.T @ Z: its sign is wrong"),
        (
            GRADIENT, alpha * Z @ d.inv(d.eye("d") + 2 * alpha * Z.T @ Z),
            "in the term 2 * alpha * Z.T @ Z: multiply it by 1/2",
        ),
        (Z @ S - Z @ T, Z @ S + Z @ T, "its sign is wrong"),
        (Z @ S - Z @ T, Z @ S.T - Z @ T, "in the term Z @ S.T: transpose S.T"),
        (Z @ S, Z @ S + alpha * Z, "in the term alpha * Z: leave it out"),
        (HEADS, of_heads(BETA, 1), "multiply it by p / (eps**2 * n)"),
        (HEADS, of_heads(1, BETA), "multiply it by p / (eps**2 * n)"),
        (HEADS, of_heads(BETA, dim / p * BETA), "write p for d"),
        (HEADS, of_heads(dim / p * BETA, BETA), "write p for d"),
        (HEADS, of_heads(eps * BETA, eps * BETA), "write eps**2 for eps"),
        (HEADS, of_heads(BETA, BETA / eps), "multiply it by eps"),
        (d.Sum("k", s["k"] * U["k"]), d.Sum("k", sigma["k"] * U["k"]), "write s[k] for sigma[k]"),
        (d.inv(S), S @ T, None),
    ],
)  # fmt: skip
def test_a_wrong_closed_form_is_told_what_is_wrong(derived, closed, correction):
    verdict = d.equal(derived, closed)
    assert not verdict
    assert verdict.how == "numeric"
    assert verdict.difference > 1e-3
    if correction is None:
        assert verdict.correction is None
        assert "no common correction fits" in str(verdict)
    else:
        assert verdict.correction is not None
        assert verdict.correction.endswith(correction)
        assert correction in str(verdict)


@pytest.mark.parametrize(
    ("closed", "correction"),
    [
        (lambda Z, alpha: alpha * Z @ np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ Z), None),
        (lambda Z, alpha: 2 * alpha * Z @ np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ Z), "multiply it by 1/2"),
        (lambda Z, alpha: (alpha * Z @ np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ Z)).T, "transpose it"),
        (lambda Z, alpha: Z @ np.linalg.inv(np.eye(Z.shape[1]) + alpha * Z.T @ Z), "multiply it by alpha"),
    ],
)
def test_a_closed_form_may_be_a_function_of_arrays(closed, correction):
    verdict = d.equal(GRADIENT, closed)
    assert verdict.equal == (correction is None)
    assert verdict.correction == correction


def test_draws_are_seeded_and_can_be_sized():
    first, again = (d.equal(GRADIENT, 3 * GRADIENT, seed=4, draws=2) for _ in range(2))
    assert first == again
    assert first.draws == 2
    assert d.equal(d.inv(Z.T @ Z) @ Z.T @ Z, d.eye("d"), sizes={"n": 6, "d": 6}).draws == 3
    with pytest.raises(ValueError, match="draws must be >= 1"):
        d.equal(GRADIENT, GRADIENT, draws=0)
    with pytest.raises(ValueError, match="no draw gave a finite value"):
        d.equal(d.inv(Z.T @ Z), d.zeros("d", "d"), sizes={"n": 2, "d": 5})


# Soundness of the rules on expressions put together at random; autograd knows nothing of them.

Q, V = d.Matrix("Q", "d", "d", symmetric=True), d.Vector("v", "d")
LEAVES = (S, T, Q, Z.T @ Z, S.T, d.diag(V), d.Sum("k", U["k"] @ U["k"].T), d.eye("d"))


def square(rng, depth):
    """A random d x d matrix expression."""
    if depth == 0:
        return LEAVES[rng.integers(len(LEAVES))]
    X, other = square(rng, depth - 1), square(rng, depth - 1)
    return (
        lambda: X @ other,
        lambda: X + alpha * other,
        lambda: X.T - d.half * other,
        lambda: d.inv(5 * d.eye("d") + X @ X.T / (1 + d.squared_norm(X))),
        lambda: d.inv(3 * d.eye("d") + alpha * S.T @ S) @ X,
        lambda: d.hadamard(X, other),
        lambda: d.diag(d.diagonal(X)) @ other,
        lambda: d.softmax(X / (1 + d.squared_norm(X))) @ other,
        lambda: d.tanh(X) @ other,
        lambda: X * (d.trace(other) / (1 + d.squared_norm(other))),
        lambda: d.logsumexp(d.tanh(X)) @ V.T,
    )[rng.integers(11)]()


def scalar(rng, depth):
    """A random scalar expression."""
    X = square(rng, depth)
    return (
        lambda: d.trace(X),
        lambda: d.squared_norm(X) + alpha,
        lambda: d.log(1 + d.squared_norm(X)),
        lambda: d.logdet(d.eye("d") + alpha * X @ X.T),
        lambda: V.T @ X @ V,
        lambda: d.total(d.exp(d.tanh(X))),
        lambda: (1 + d.inner(S, X) ** 2) ** -0.5,
    )[rng.integers(7)]()


DRAWN = {
    "S": RNG.standard_normal((D, D)), "T": RNG.standard_normal((D, D)), "Z": Z_, "U": U_,
    "v": RNG.standard_normal(D), "Q": np.cov(RNG.standard_normal((D, 2 * D))), "alpha": 0.7, "d": D,
}  # fmt: skip


def values_for(*expressions):
    return {name: DRAWN[name] for x in expressions for name in x.arguments}


@pytest.mark.parametrize("seed", range(40))
def test_rules_are_sound_on_random_expressions(seed):
    rng = np.random.default_rng(seed)
    x = scalar(rng, 1 + seed % 2)
    normal = d.normal_form(x)
    value = float(x(**values_for(x)))
    assert abs(float(normal(**values_for(normal))) - value) <= 1e-10 * max(1.0, abs(value))
    variable = next((v for v in (S, T, Z, V) if repr(v) in values_for(x)), None)
    if variable is None:
        return
    name, gradient = repr(variable), d.grad(x, variable)
    tensors = {key: torch.tensor(a, dtype=torch.float64, requires_grad=key == name) for key, a in values_for(x).items()}
    d.compile(x)(**tensors).backward()
    wanted = tensors[name].grad.numpy()
    got = gradient(**values_for(gradient)) if gradient.terms else np.zeros_like(wanted)
    np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9 * max(1.0, np.max(np.abs(wanted))))
    again = d.normal_form(gradient)
    if again.terms:
        np.testing.assert_allclose(
            again(**values_for(again)), wanted, rtol=1e-8, atol=1e-8 * max(1.0, np.max(np.abs(wanted)))
        )


def test_symbols_of_one_name_are_kept_apart():
    """The second comparison must not find what is known of the first symbol: same name, other properties."""
    assert d.equal(d.inv(Q).T, d.inv(Q)).how == "symbolic"
    general = d.Matrix("Q", "d", "d")
    assert not d.equal(d.inv(general).T, d.inv(general))
    wide = d.Matrix("Z", "d", "n")
    assert d.inv(d.eye("d") + wide @ wide.T) != d.inv(d.eye("d") + Z.T @ Z)
    with pytest.raises(ValueError, match="Z means two things"):
        d.equal(wide @ wide.T, Z.T @ Z)


def test_a_symmetric_variable_has_a_symmetric_gradient():
    G = d.grad(d.trace(S @ Q), Q)
    assert d.equal(G, d.half * (S + S.T)).how == "symbolic"
    assert d.grad(d.logdet(Q), Q) == d.inv(Q)
    assert repr(d.grad(d.logdet(S), S)) == "inv(S.T)"


# What is refused.


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: Z @ Z, r"Z \(n x d\) @ Z \(n x d\): d columns do not meet n rows"),
        (lambda: Z + S, r"one shape; got Z \(n x d\) and S \(d x d\)"),
        (lambda: Z * S, "write @ for the product"),
        (lambda: Z + 1, "one shape"),
        (lambda: alpha @ Z, "@ takes two matrices"),
        (lambda: Z**2, "write power"),
        (lambda: 1 / Z, "divide by"),
        (lambda: d.inv(Z), r"inv takes a square matrix; got Z \(n x d\)"),
        (lambda: d.logdet(Z), "logdet takes a square matrix"),
        (lambda: d.trace(Z), "trace takes a square matrix"),
        (lambda: d.diag(Z), "diag takes a column"),
        (lambda: d.diagonal(Z), "diagonal takes a square matrix"),
        (lambda: d.inv(d.zeros("d", "d")), "zero matrix"),
        (lambda: d.logdet(S - S), "zero matrix"),
        (lambda: d.hadamard(Z, S), "one shape"),
        (d.hadamard, "nothing"),
        (lambda: d.inner(Z, S), "one shape"),
        (lambda: d.Matrix("lambda", "n", "d"), "Python identifier"),
        (lambda: d.Matrix("Z", "n", 0), "size"),
        (lambda: d.Matrix("Z", "n", 1), "Vector"),
        (lambda: d.Matrix("Z", "n", "d", symmetric=True), "square"),
        (lambda: d.Family("U", "d", over="K"), "rows, columns"),
        (lambda: d.Sum("k", Z), "nothing in Z .* has the index k"),
        (lambda: d.Sum("k", U["k"] @ d.Family("B", "p", "p", over="J")["k"]), "several sizes: J, K"),
        (lambda: U["k"].column("l"), "a column is taken of a matrix"),
        (lambda: d.grad(Z, Z), "gradient is that of a scalar"),
        (lambda: d.grad(R, Z @ S), "a gradient is taken in a symbol"),
        (lambda: d.quadratic_form(R, Z, "eps"), "choose another name"),
        (lambda: d.equal(Z, S), "two shapes"),
        (lambda: d.compile(GRADIENT)(Z=Z_), "missing or unknown: alpha"),
        (lambda: GRADIENT(Z=Z_, alpha=1.0, extra=2), "missing or unknown: extra"),
        (lambda: GRADIENT(Z=Z_[0], alpha=1.0), r"Z must have the shape \(n, d\); got \(5,\)"),
        (lambda: (Z @ S)(Z=Z_, S=np.eye(4)), "S has d = 4, and Z has d = 5"),
        ((Z @ d.Matrix("Z", "d", "d")).code, "Z means two things"),
        ((d.Scalar("n") * n * Z).code, "n names a symbol and a size"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(action, message):
    with pytest.raises(ValueError, match=message):
        action()


@pytest.mark.parametrize("function", [d.softmax, d.logsumexp])
def test_functions_of_rows_take_a_matrix(function):
    with pytest.raises(ValueError, match=f"{function.__name__} takes a matrix"):
        function(alpha)


def test_other_refusals():
    with pytest.raises(TypeError, match="an expression or a number is wanted; got str"):
        Z + "Z"
    with pytest.raises(ZeroDivisionError):
        Z / (alpha - alpha)


# Printing and code.


@pytest.mark.parametrize("expression", [x for x, *_ in RATES.values()] + [ENERGY, bound(d.Function("f"))])
def test_latex_is_balanced_and_names_what_it_should(expression):
    for x in (expression, d.grad(expression, Z), d.quadratic_form(expression, Z, "E")):
        text = x.latex()
        assert text.count("{") == text.count("}")
        assert text.count(r"\left(") == text.count(r"\right)")
        assert text.count("(") == text.count(")")
        assert "Z" in text
        assert "**" not in text
        assert "@" not in text


def test_latex_as_one_would_write_it():
    assert GRADIENT.latex() == r"\alpha Z \left(I_{d} + \alpha Z^\top Z\right)^{-1}"
    assert (d.half * d.logdet(S)).latex() == r"\frac{1}{2} \log\det\left(S\right)"
    assert (dim / (n * eps**2) * Z).latex() == r"\frac{d}{\varepsilon^{2} n} Z"
    assert d.Sum("k", U["k"] @ U["k"].T).latex() == r"\sum_{k=1}^{K} U_{k} U_{k}^\top"
    assert d.inv(S).latex() == "S^{-1}"
    assert (d.Scalar("mu_max") * d.differential(Z @ S, Z, "dZ")).latex() == r"\mu_{\mathrm{max}} \mathrm{d}Z S"


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: f"{backend.name}-{backend.dtype}")
def test_code_runs_on_every_backend(backend):
    values = {"Z": Z_, "U": U_, "Pi": PI_, "eps": EPS, "Y": RNG.standard_normal((K, M, P)), "sigma": np.ones(K)}
    values |= {"s": np.full(K, 0.6), "f": np.tanh, "A": RNG.standard_normal((N, D)), "alpha": 0.7}
    shrink = d.total(d.shrink(d.Matrix("A", "n", "d"), alpha) @ d.diag(d.diagonal(Z.T @ Z)))
    some = (d.grad(ENERGY, Z), d.grad(shrink, Z))  # JAX compiles every operation of every shape
    for x in some if backend.name == "jax" else (R, R_HEADS, d.grad(R_PARTS, Z), ENERGY, shrink, *some):
        used = {name: values[name] for name in x.arguments}
        given = {name: backend.asarray(a) if isinstance(a, np.ndarray) else a for name, a in used.items()}
        backend.close(x(**given), x(**used), ulps=4000)


def test_code_is_a_function_that_stands_alone():
    source = GRADIENT.code("expansion")
    scope = {}
    exec(source, scope)
    close(scope["expansion"](Z=Z_, alpha=0.7, xp=array_api_compat.numpy), GRADIENT(Z=Z_, alpha=0.7))
    assert source.count("xp.linalg.inv") == 1
    hessian = d.hessian_product(R_HEADS, Z, "E").code()
    assert hessian.count("xp.linalg.inv") == 1  # once a head, inside the loop
    assert hessian.index("for k in range(K)") < hessian.index("xp.linalg.inv")
    shared = d.Sum("k", d.trace(RESOLVENT @ U["k"] @ U["k"].T)).code()
    assert shared.index("xp.linalg.inv") < shared.index("for k")  # nothing of the head is in it


def test_small_shapes_of_values():
    assert np.shape(d.grad(W.T @ Z @ Z.T @ W, W)(Z=Z_, w=W_)) == (N,)
    assert float(d.half()) == 0.5
    assert float(d.log(n)(n=3)) == pytest.approx(np.log(3.0))
    assert d.zeros("n", "d")(n=2, d=3).shape == (2, 3)
    assert d.squared_norm(W) == W.T @ W
    assert (W @ W.T) @ W == W @ (W.T @ W)
    assert 0.1 * alpha == alpha / 10
