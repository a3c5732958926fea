"""Operators broken on purpose: each mutant is one slip a person could make."""

import dataclasses
import importlib
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from srr import ops


class Mutant(NamedTuple):
    name: str
    target: str  # an operator of srr.ops, or the path of a function or method below srr
    broken: Callable[..., Any]


def install(monkeypatch, mutant: Mutant) -> None:
    """Put the broken function in the place of the right one wherever the package has bound it."""
    *path, last = (mutant.target if "." in mutant.target else f"ops.{mutant.target}").split(".")
    home = importlib.import_module("srr." + path[0])
    for i, name in enumerate(path[1:], 2):
        inner = sys.modules.get(".".join(["srr", *path[:i]]))  # a package may name a function as its module
        home = getattr(home, name) if inner is None else inner
    original = getattr(home, last)

    def broken(*args, **options):
        return mutant.broken(original, *args, **options)

    monkeypatch.setattr(home, last, broken)
    for name, module in list(sys.modules.items()):
        if name == "srr" or name.startswith("srr."):
            for bound, value in list(vars(module).items()):
                if value is original:
                    monkeypatch.setattr(module, bound, broken)


def scaled(factor):
    return lambda f, *args, **options: factor * f(*args, **options)


def with_option(**changes):
    """The operator with options changed, each by a function of its value, where they are given."""

    def broken(f, *args, **options):
        return f(*args, **(options | {k: change(options[k]) for k, change in changes.items() if k in options}))

    return broken


def without(*names):
    return lambda f, *args, **options: f(*args, **{k: v for k, v in options.items() if k not in names})


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def wrong_softmax_axis(f, V, *, scale=1.0, **options):
    return softmax(scale * V @ V.mT, axis=-2) @ V


def transposed_mask(f, V, *, causal=False, mask=None, **options):
    n = V.shape[-2]
    return f(V, mask=np.triu(np.ones((n, n), dtype=bool)), **options) if causal else f(V, mask=mask, **options)


def unsquared_eps(f, n, p, *, eps):
    return f(n, p, eps=eps) * eps


def swapped_sizes(f, n, p, *, eps):
    return f(n, p, eps=eps) * (n / p) ** 2


def beta_again(f, Z, U, *, eps, **options):
    return f(Z, U, eps=eps, **options) * U.shape[-1] / (Z.shape[-2] * eps**2)


def unweighted_classes(f, Z, Pi, *, eps, **options):
    if np.asarray(Pi).ndim == 1:
        return f(Z, Pi, eps=eps, **options)
    return sum(ops.coding_rate(Z, eps=eps, weights=np.ascontiguousarray(w)) for w in Pi.T)


def summed_reduction(f, Z, Pi, *, eps, **options):
    return 2 * ops.coding_rate(Z, eps=eps) - f(Z, Pi, eps=eps, **options)


def positive_series(f, Z, U, *, eps, terms=1, **options):
    exact = f(Z, U, eps=eps, terms=0)
    return 2 * exact - f(Z, U, eps=eps, terms=terms)


def transposed_dictionary(f, D, *, step, **options):
    return np.eye(len(D)) + step * (D.T - D.T @ D)


def wrong_gram(f, D, *, step, **options):
    return np.eye(len(D)) + step * (D - D @ D.T)


def unscaled_threshold(f, A, Z, D, *, step, lam, **options):
    return f(A, Z, D, step=step, lam=lam / step, **options)


def doubled_gradient(f, A, Z, D, *, step, lam, **options):
    return f(A, Z, D, step=2 * step, lam=lam / 2, **options)


def added_threshold(f, Z, *, threshold, **options):
    return np.maximum(Z + threshold, 0.0)


def grown(f, Z, *, threshold, **options):
    return Z + np.sign(Z) * threshold


def by_columns(f, Z, *, threshold, **options):
    return f(np.ascontiguousarray(Z.mT), threshold=threshold).mT


def without_corner(f, Z, *, threshold, **options):
    out = np.sign(Z) * np.maximum(np.abs(Z) - threshold, 0)
    length = np.linalg.norm(out, axis=-1, keepdims=True)
    return np.where(length > 0, out / np.where(length > 0, length, 1), Z / np.linalg.norm(Z, axis=-1, keepdims=True))


def half_lasso(f, A, Z, D, *, lam, **options):
    return f(A, Z, D, lam=lam, **options) + 0.5 * np.sum((Z - A @ D.mT) ** 2)


def simpler_growth(f, *arrays, alpha, lam, curvature=2.25, **options):
    moved = arrays[0] if len(arrays) == 1 else arrays[0] @ arrays[1]
    return np.maximum((1 + 1 / (curvature * alpha)) * moved - lam / (curvature * alpha), 0)


def membership_over_tokens(f, Z, U, *, temperature=1.0, **options):
    return softmax(np.sum(ops.project(Z, U) ** 2, axis=-1) / (2 * temperature), axis=-1).mT


def norm_instead_of_deviation(f, Z, *, offset=1e-5, **options):
    return f(Z, offset=offset, **options) / np.sqrt(Z.shape[-1])


def unbiased_deviation(f, Z, *, offset=1e-5, **options):
    d = Z.shape[-1]
    return f(Z, offset=offset, **options) * np.sqrt((d - 1) / d)


def overlap_ignored(f, Z, U, *, eps, **options):
    return U.shape[-1] / (Z.shape[-2] * eps**2)


def loose_sum(f, Z, U, *, eps, **options):
    return f(Z, U, eps=eps) + 0.875 * ops.coding_rate_smoothness(Z, eps=eps)


def kept_weights(f, Z, U, *, threshold, **options):
    V = Z @ U
    weights = ops.attention_weights(V)
    return np.sum(np.where(weights > threshold, weights, 0.0) @ V @ U.mT, axis=0)


def squared(f, *args, **options):
    return f(*args, **options) ** 2


def uphill(f, Z, U, *, step, **options):
    return 2 * Z - f(Z, U, step=step, **options)


def heads_reversed(f, V, U, **options):
    return f(V[..., ::-1, :, :], U, **options)


def bases_kept(f, Z, U, *, out=None, **options):
    return f(Z, U, **options)


def share_dropped(f, Z, operators, Pi=None, **options):
    even = operators._replace(proportions=np.ones_like(operators.proportions))
    return f(Z, even, Pi, **options)


def unnormalized_weights(f, Z, U, **options):
    V = Z @ U
    return np.sum(np.exp(V @ V.mT) @ V @ U.mT, axis=0)


def signed_codes(f, A, Z, D, *, step, lam, **options):
    return ops.soft_threshold(A - step * (A @ D.mT - Z) @ D, threshold=step * lam)


def uphill_codes(f, A, Z, D, *, step, lam, **options):
    return np.maximum(A + step * (A @ D.mT - Z) @ D - step * lam, 0)


def frame_ignored(f, self, V, *, step):
    return self.penalty.prox(V, step=step)


def outside_is_free(f, self, Z):
    return f(dataclasses.replace(self, outside=0.0), Z)


def uphill_problem(f, self, Z):
    value, slope = f(self, Z)
    return value, -slope


def merge_forgets(f, self, other):
    return self


def sines_only(f, A, B, **options):
    return np.arcsin(np.clip(np.sin(f(A, B, **options)), -1.0, 1.0)) / 2


def mask_or_causal(f, V, *, causal=False, mask=None, **options):
    return f(V, causal=causal and mask is None, mask=mask, **options)


def unmasked_statistics(f, V, temperature, *, mask=None, **options):
    return f(V, temperature, **options)


def likelihood_off(f, Z, parameters):
    share, value = f(Z, parameters)
    return share, 1.01 * value


def uncounted_labels(f, count, logdet, n, d):
    return f(count, logdet, n, d) - count * np.log(n / count)


def never_there(f, self, Z, grad):
    return f(self, Z, grad) + 0.01


def half_length(f, self, *arrays):
    return f(self, *arrays) / 9


def uphill_half(f, self, problem, Z):
    return 2 * Z - f(self, problem, Z)


def bits_lost(f, Z, *, eps, **options):
    return f(Z, eps=1.1 * eps, **options)


def shifted_bare(f, *arrays, **options):
    value, slope = f(*arrays, **options)
    return value, 1.01 * slope


MUTANTS = [
    Mutant("merge-forgets", "ops.streaming.SecondMoment.merge", merge_forgets),
    Mutant("angles-halved", "principal_angles", sines_only),
    Mutant("mask-or-causal", "ssa", mask_or_causal),
    Mutant("statistics-unmasked", "tssa_heads", unmasked_statistics),
    Mutant("likelihood-off", "fits.mixture.expectation", likelihood_off),
    Mutant("labels-for-free", "fits.coding_length.cluster_length", uncounted_labels),
    Mutant("distance-never-zero", "penalties.L1.distance", never_there),
    Mutant("smoothness-a-ninth", "problems.SparseCoding.smoothness", half_length),
    Mutant("reduction-smoothness-a-ninth", "problems.RateReduction.smoothness", half_length),
    Mutant("half-step-uphill", "solvers.layers.ExactCompression.__call__", uphill_half),
    Mutant("code-too-coarse", "fits.dithered.dithered_encode", bits_lost),
    Mutant("bare-rate-gradient", "ops.rates.bare_coding_rate_value_and_grad", shifted_bare),
    Mutant("bare-subspace-gradient", "ops.rates.bare_subspace_coding_rate_value_and_grad", shifted_bare),
    Mutant("bare-scale", "ops.rates.bare_rate_scale", scaled(1.01)),
    Mutant("bare-neumann", "ops.attention.bare_neumann_grad", scaled(1.01)),
    Mutant("bare-attention", "ops.attention.bare_ssa", scaled(1.01)),
    Mutant("bare-ista", "ops.sparse.bare_ista_step", scaled(1.01)),
    Mutant("bare-lasso", "ops.sparse.bare_lasso", scaled(1.01)),
    Mutant("bare-projection", "ops.subspaces.bare_project", scaled(1.01)),
    Mutant("bare-contraction", "ops.attention.bare_contract_broadcast", scaled(1.01)),
    Mutant("bare-statistics", "ops.attention.bare_tssa_heads", scaled(1.01)),
    Mutant("bare-membership", "ops.subspaces.bare_membership", scaled(1.01)),
    Mutant("half-dropped-from-rate", "coding_rate", scaled(2.0)),
    Mutant("half-dropped-from-subspace-rate", "subspace_coding_rate", scaled(2.0)),
    Mutant("half-dropped-from-partition-rate", "partition_coding_rate", scaled(2.0)),
    Mutant("log-base-two", "gram_logdet", scaled(1 / np.log(2))),
    Mutant("sign-of-rate-gradient", "coding_rate_grad", scaled(-1.0)),
    Mutant("sign-of-subspace-gradient", "subspace_coding_rate_grad", scaled(-1.0)),
    Mutant("gradient-off-by-one-percent", "partition_coding_rate_grad", scaled(1.01)),
    Mutant("sign-of-srr-gradient", "sparse_rate_reduction_grad", scaled(-1.0)),
    Mutant("sign-of-reduction-gradient", "rate_reduction_grad", scaled(-1.0)),
    Mutant("eps-not-squared", "rate_scale", unsquared_eps),
    Mutant("tokens-and-dimension-swapped", "rate_scale", swapped_sizes),
    Mutant("beta-squared", "subspace_coding_rate_grad", beta_again),
    Mutant("weights-ignored", "coding_rate", without("weights")),
    Mutant("gradient-weights-ignored", "coding_rate_grad", without("weights")),
    Mutant("class-share-dropped", "partition_coding_rate", unweighted_classes),
    Mutant("compression-added", "rate_reduction", summed_reduction),
    Mutant("sign-of-lambda", "sparse_rate_reduction", with_option(lam=lambda lam: -lam)),
    Mutant("softmax-over-wrong-axis", "ssa", wrong_softmax_axis),
    Mutant("causal-mask-transposed", "ssa", transposed_mask),
    Mutant("mask-ignored", "ssa", without("mask")),
    Mutant("scale-ignored", "ssa", without("scale")),
    Mutant("output-map-ignored", "mssa", bases_kept),
    Mutant("heads-reversed", "lift", heads_reversed),
    Mutant("beta-inside-attention", "mssa", scaled(0.5)),
    Mutant("sign-of-neumann-term", "neumann_grad", positive_series),
    Mutant("one-neumann-term-fewer", "neumann_grad", with_option(terms=lambda terms: terms - 1)),
    Mutant("validity-not-squared", "neumann_validity", lambda f, *a, **k: f(*a, **k) ** 0.5),
    Mutant("compression-uphill", "compression_step", uphill),
    Mutant("neumann-uphill", "neumann_step", uphill),
    Mutant("threshold-added-to-soft", "soft_threshold", grown),
    Mutant("threshold-added-to-relu", "relu_threshold", added_threshold),
    Mutant("group-by-columns", "group_soft_threshold", by_columns),
    Mutant("hard-threshold-halved", "hard_threshold", with_option(threshold=lambda t: t / 2)),
    Mutant("sphere-corner-forgotten", "unit_soft_threshold", without_corner),
    Mutant("threshold-without-step", "ista_step", unscaled_threshold),
    Mutant("gradient-without-half", "ista_step", doubled_gradient),
    Mutant("lasso-without-half", "lasso", half_lasso),
    Mutant("dictionary-transposed", "ista_matrix", transposed_dictionary),
    Mutant("gram-of-rows", "ista_matrix", wrong_gram),
    Mutant("folded-threshold-without-step", "folded_ista_step", with_option(step=lambda step: 1.0)),
    Mutant("momentum-forgotten", "fista_step", with_option(momentum=lambda m: 0.0)),
    Mutant("majorizer-without-one", "prox_mm_step", simpler_growth),
    Mutant("membership-over-tokens", "subspace_membership", membership_over_tokens),
    Mutant("temperature-without-two", "subspace_membership", with_option(temperature=lambda t: t / 2)),
    Mutant("norm-instead-of-deviation", "layer_norm", norm_instead_of_deviation),
    Mutant("unbiased-deviation", "layer_norm", unbiased_deviation),
    Mutant("nine-quarters", "coding_rate_smoothness", scaled(2.25)),
    Mutant("overlap-of-heads-ignored", "subspace_coding_rate_smoothness", overlap_ignored),
    Mutant("alpha-instead-of-an-eighth", "sparse_rate_reduction_smoothness", loose_sum),
    Mutant("hessian-off-by-one-percent", "coding_rate_hvp", scaled(1.01)),
    Mutant("subspace-hessian-sign", "subspace_coding_rate_hvp", scaled(-1.0)),
    Mutant("weights-instead-of-tau", "thresholded_mssa", kept_weights),
    Mutant("ratio-squared", "snr", squared),
    Mutant("statistics-sign", "tssa", scaled(-1.0)),
    Mutant("statistics-temperature", "tssa", with_option(temperature=lambda t: 2 * t)),
    Mutant("statistics-not-causal", "tssa_heads", without("causal")),
    Mutant("statistics-sign-released", "tssa_heads", scaled(-1.0)),
    Mutant("share-dropped", "redunet_increment", share_dropped),
    Mutant("sharpness-sign", "redunet_increment", with_option(sharpness=lambda s: 0.0)),
    Mutant("shift-distortion", "redunet_operators", with_option(eps=lambda eps: 1.1 * eps)),
    Mutant("softmax-not-normalized", "mssa", unnormalized_weights),
    Mutant("sign-of-attention", "mssa", scaled(-1.0)),
    Mutant("codes-with-signs", "ista_step", signed_codes),
    Mutant("codes-uphill", "ista_step", uphill_codes),
    Mutant("sphere-threshold-halved", "unit_soft_threshold", with_option(threshold=lambda t: t / 2)),
    Mutant("frame-ignored", "penalties.RotatedPenalty.prox", frame_ignored),
    Mutant("outside-is-free", "problems.SparseRateReduction.value_and_grad", outside_is_free),
    Mutant("problem-uphill", "problems.RateReduction.value_and_grad", uphill_problem),
    Mutant("one-layer-fewer", "nn.create_model", lambda f, name: f(name, depth=11)),
    Mutant("gradient-doubled", "coding_rate_grad", scaled(2.0)),
    Mutant("half-counted-twice", "coding_rate", scaled(0.5)),
    Mutant("causal-forgotten", "mssa", without("causal")),
]
