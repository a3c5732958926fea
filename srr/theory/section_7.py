"""§7 Errata: what is printed, what is right, and the check that shows it."""

from __future__ import annotations

import numpy as np

from srr.fits.coding_length import coding_length
from srr.theory import draws, truth
from srr.theory.lab import Lab
from srr.theory.statement import Refutation, Sample, erratum


@erratum(
    "erratum-beta", "7.a", source="CRATE (10) with (12); LONG writes κβ²", inside=draws.mixture, margin=1.0, samples=2
)
def beta_twice(lab: Lab, p: Sample) -> Refutation:
    r"""β is counted twice when MSSA contains it.

    $$\mathrm{MSSA}(Z) = \beta \sum_k \mathrm{SSA}(ZU_k)U_k^\top, \quad Z^+ = (1 - \kappa\beta)Z +
    \kappa\beta\,\mathrm{MSSA}(Z)$$
    Corrected: $$\mathrm{MSSA}(Z) = \sum_k \mathrm{SSA}(ZU_k)U_k^\top$$

    Assumes: The mixture of (13): β = 12.5 at ε = 0.1; the operator is `mssa`.
    Measured: relative error of the operator against the sum without β.
    Proof: The step's weight β once belongs to the gradient. With (12) the same letter enters again, and the weight
    is κβ², as the Neumann term has it before its Gram matrix becomes a softmax. The library's `mssa` holds no β; a
    step κβ written outside counts it once. The witness gives the distance to the exact step for both counts.
    """
    naive = sum(truth.softmax_attention(p.Z @ basis) @ basis.T for basis in p.U)
    got = lab.ops.mssa(p.Z, p.U)
    beta = truth.beta(p.Z, p.U, p.eps)
    step = 0.5 / beta
    exact = lab.ops.compression_step(p.Z, p.U, step=step, eps=p.eps) - p.Z
    gaps = [np.linalg.norm(0.5 * (b * got - p.Z) - exact) / np.linalg.norm(exact) for b in (1.0, beta)]
    witness = (
        f"β = {beta:g}; the step misses the exact one by {gaps[0]:.3g} of its length "
        f"with β once, by {gaps[1]:.3g} with β twice"
    )
    return Refutation(truth.error(beta * got, naive), truth.error(got, naive), witness)


def _ista_error(lab: Lab, p: Sample, *, half: float = 0.5, sign: float = 1.0) -> Refutation:
    """ISTA as printed and as the operator runs it, against the minimizer of the model of ½‖Z − ADᵀ‖² + λ‖A‖₁."""
    forward = truth.gradient(lambda A: truth.lasso(A, p.Z, p.D), p.A)
    want = np.maximum(p.A - p.step * (forward + p.lam), 0.0)
    printed = np.maximum(p.A - p.step * (forward * half / 0.5 + sign * p.lam), 0.0)
    got = lab.ops.ista_step(p.A, p.Z, p.D, step=p.step, lam=p.lam)
    size = max(float(np.max(want)), 1e-3)
    return Refutation(float(np.max(np.abs(printed - want))) / size, float(np.max(np.abs(got - want))) / size)


@erratum("erratum-half", "7.b", source="CRATE (15)-(16) against (17)", inside=draws.codes)
def missing_half(lab: Lab, p: Sample) -> Refutation:
    r"""The missing ½ of the sparse-coding objective.

    $$\Vert Z - AD^\top\Vert_F^2 + \lambda\Vert A\Vert_1 \;\mathrm{with\;the\;step\;of\;(17)}$$
    Corrected: $$\frac{1}{2}\Vert Z - AD^\top\Vert_F^2 + \lambda\Vert A\Vert_1$$

    Assumes: Non-negative codes, any dictionary.
    Measured: error of the step, relative.
    Proof: (17) steps along (ADᵀ − Z)D, the gradient with the ½; without it the gradient is twice that, and the step
    is for twice the λ.
    """
    found = _ista_error(lab, p, half=1.0)
    return found._replace(witness=f"without the ½ the codes differ by {found.printed:.2f} of their size")


@erratum("erratum-sign", "7.c", source="later texts on CRATE (17)", inside=draws.codes)
def threshold_sign(lab: Lab, p: Sample) -> Refutation:
    r"""The threshold is subtracted.

    $$A^+ = \mathrm{ReLU}(A - \eta\nabla f + \eta\lambda)$$
    Corrected: $$A^+ = \mathrm{ReLU}(A - \eta\nabla f - \eta\lambda)$$

    Assumes: Non-negative codes, any dictionary.
    Measured: error of the step, relative.
    Proof: +ηλ is the proximal step of −λ‖A‖₁: it makes codes denser. Checked against the minimizer of the model.
    """
    found = _ista_error(lab, p, sign=-1.0)
    return found._replace(witness=f"with + the codes differ by {found.printed:.2f} of their size")


def _sequence(rng: np.random.Generator) -> Sample:
    V = rng.standard_normal((5, 3))
    return Sample(V=V, changed=np.vstack([V[:-1], rng.standard_normal((1, 3))]))


@erratum("erratum-mask", "7.d", source="causal forms of CRATE (11) in column notation", inside=_sequence, margin=0.01)
def mask_orientation(lab: Lab, p: Sample) -> Refutation:
    r"""Orientation of the causal mask.

    $$\mathrm{mask}_{ij} = [i \leq j] \;\mathrm{in\;rows}$$
    Corrected: $$\mathrm{mask}_{ij} = [j \leq i] \;\mathrm{in\;rows}$$

    Assumes: Only the last token is changed; earlier outputs must not notice.
    Measured: change of earlier outputs, relative.
    Proof: In columns the softmax runs down a column and the mask is upper triangular; copied to rows untransposed,
    token i sees its future. The library's `causal=True` must not leak.
    """
    upper = np.triu(np.ones((5, 5), dtype=bool))
    printed, causal = (
        truth.error(lab.ops.ssa(p.changed, **option)[:-1], lab.ops.ssa(p.V, **option)[:-1])
        for option in ({"mask": upper}, {"causal": True})
    )
    return Refutation(printed, causal, f"with the transposed mask earlier outputs move by {printed:.2f}")


def _tokens(rng: np.random.Generator) -> Sample:
    return Sample(Z=rng.standard_normal((4, 16)) * 3 + 1)


@erratum("erratum-layer-norm", "7.e", source="texts that put LN on the unit sphere", inside=_tokens, margin=0.5)
def layer_norm(lab: Lab, p: Sample) -> Refutation:
    r"""LN divides by the standard deviation, not the norm.

    $$\mathrm{LN}(z) = \frac{z - \bar z}{\Vert z - \bar z\Vert_2}$$
    Corrected: $$\mathrm{LN}(z) = \frac{z - \bar z}{\mathrm{std}(z)}, \quad \Vert\mathrm{LN}(z)\Vert_2 = \sqrt{d}$$

    Assumes: d = 16, without offset, weight and bias.
    Proof: The standard deviation is the norm over √d: the two forms are √d apart, and a rate or a threshold tuned
    for one is wrong for the other by that factor.
    """
    centered = p.Z - p.Z.mean(axis=1, keepdims=True)
    want = np.stack([row / np.std(row) for row in centered])
    printed = draws.unit_rows(centered)
    factor = float(np.linalg.norm(want) / np.linalg.norm(printed))
    got = lab.ops.layer_norm(p.Z, offset=0.0)
    return Refutation(truth.error(printed, want), truth.error(got, want), f"factor {factor:g} = √16")


def _overcomplete(rng: np.random.Generator) -> Sample:
    p = draws.partition(rng)
    D = rng.standard_normal((p.Z.shape[1], 4 * p.Z.shape[1]))
    return Sample(Z=p.Z, Pi=p.Pi, eps=p.eps, atoms=D.shape[1])


@erratum("erratum-alpha", "7.f", source="texts on overcomplete dictionaries; MCR2 (8)", inside=_overcomplete)
def token_dimension(lab: Lab, p: Sample) -> Refutation:
    r"""α_k uses the dimension of the tokens, not the size of the dictionary.

    $$\alpha_k = \frac{m}{\mathrm{tr}\,\Pi_k\,\varepsilon^2}, \quad D \in \mathbb{R}^{d \times m}$$
    Corrected: $$\alpha_k = \frac{d}{\mathrm{tr}\,\Pi_k\,\varepsilon^2}$$

    Assumes: An overcomplete dictionary with m = 4d.
    Proof: α makes ε the root-mean-square error per token in R^d, whatever the tokens are coded with; the truth is
    the definition in 60 digits.
    """
    n, d = p.Z.shape
    mass = p.Pi.sum(axis=0)

    def rate(dimension: int) -> float:
        roots = [np.sqrt(w)[:, None] * p.Z for w in p.Pi.T]
        scales = dimension / (mass * p.eps**2)
        terms = [truth.precise_logdet(A, a) for A, a in zip(roots, scales, strict=True)]
        return float(mass @ terms / (2 * n))

    want = rate(d)
    got = lab.ops.partition_coding_rate(p.Z, p.Pi, eps=p.eps)
    inflated = rate(p.atoms) / want
    return Refutation(inflated - 1, truth.error(got, want), f"m = 4d inflates the rate {inflated:.2f} ×")


@erratum(
    "erratum-parameters",
    "7.g",
    source="CRATE, Table 1, and a later text",
    inside=lambda rng: Sample(dim=768, width=768, depth=12, patch=16, image=224, classes=1000),
    margin=0.03,
    samples=1,
)
def parameters(lab: Lab, p: Sample) -> Refutation:
    r"""CRATE-B has 22.80 million parameters.

    $$22.08 \;\mathrm{M}$$
    Corrected: $$22{,}796{,}008$$

    Assumes: dim 768, 12 heads of 64, 12 layers, patch 16, 224², 1000 classes.
    Measured: parameters counted, relative to 22,796,008.
    Proof: The network as the library builds it, and a count from the shapes: patch embedding with its two norms,
    class token and positions; per layer two norms, the projection, the output map with bias and one square
    dictionary; head norm and linear map.
    """
    tokens, pixels = (p.image // p.patch) ** 2 + 1, 3 * p.patch**2
    embed = 2 * pixels + (pixels + 1) * p.dim + 2 * p.dim + (tokens + 1) * p.dim
    layer = 2 * 2 * p.dim + p.dim * p.width + (p.width * p.dim + p.dim) + p.dim**2
    head = 2 * p.dim + (p.dim + 1) * p.classes
    count = embed + p.depth * layer + head
    built = lab.parameters("crate_base")
    witness = f"{count:,} parameters" + ("; torch is missing, so no network was built" if built is None else "")
    wrong = max(abs(count / 22_796_008 - 1), 0.0 if built is None else abs(built / count - 1))
    return Refutation(abs(22.08e6 / count - 1), wrong, witness)


@erratum(
    "erratum-epsilon", "7.i", source="public codes for MCR2 and CRATE", inside=draws.mixture, margin=0.1, samples=3
)
def epsilon(lab: Lab, p: Sample) -> Refutation:
    r"""`eps` is ε, not ε².

    $$\mathrm{eps} = \varepsilon^2: \quad \alpha = \frac{d}{n\,\mathrm{eps}}$$
    Corrected: $$\mathrm{eps} = \varepsilon: \quad \alpha = \frac{d}{n\,\mathrm{eps}^2}$$

    Assumes: 64 unit tokens in 48 dimensions, eps = 0.1 read both ways.
    Proof: The same number under the same name means another distortion; rates compare only after one is converted.
    """
    n, d = p.Z.shape
    want = truth.rate(p.Z, p.eps)
    other = truth.logdet(np.eye(d) + d / (n * p.eps) * p.Z.T @ p.Z) / 2
    got = lab.ops.coding_rate(p.Z, eps=p.eps)
    return Refutation(abs(other / want - 1), truth.error(got, want), f"{other:.1f} instead of {want:.1f} nats")


@erratum("crate-lemma-6", "7.h", source="CRATE, Lemma 6", inside=draws.curved_tokens, bound=1e-6, margin=1.0)
def lemma_six(lab: Lab, p: Sample) -> Refutation:
    r"""Lemma 6's constant 9α/4 is valid and loose; α is tight.

    $$\Vert\nabla^2 R\Vert_2 \leq \frac{9\alpha}{4} \;\mathrm{is\;sharp}$$
    Corrected: $$\sup_Z \Vert\nabla^2 R(Z)\Vert_2 = \alpha$$

    Assumes: Every Z.
    Measured: gap of the constant to the largest curvature found, relative.
    Proof: The largest curvature over Z = 0 and random Z is α to six digits; 9/4 comes from bounding two terms
    apart.
    """
    alpha = lab.ops.coding_rate_smoothness(p.Z, eps=p.eps)
    points = (p.Z, np.full_like(p.Z, 1e-12))
    found = max(np.linalg.norm(truth.hessian(lambda X: truth.rate(X, p.eps), Z), 2) for Z in points)
    return Refutation(2.25 * alpha / found - 1, abs(alpha / found - 1), f"largest curvature {found / alpha:.6f} α")


# --- The 2025 book on deep representations of data distributions

BOOK = "the 2025 book on deep representations of data distributions"


@erratum("erratum-book-half", "7.j", source=f"{BOOK}, an exercise", inside=draws.tokens, margin=0.5)
def book_half(lab: Lab, p: Sample) -> Refutation:
    r"""An exercise's rate lacks the ½.

    $$R(Z) = \log\det(I + \alpha Z^\top Z)$$
    Corrected: $$R(Z) = \frac{1}{2}\log\det(I + \alpha Z^\top Z)$$

    Assumes: Every Z.
    Measured: relative error.
    Proof: A real coordinate of variance λ costs ½ log(1 + λ/δ²); the truth is the definition in 60 digits.
    """
    twice = truth.precise_logdet(p.Z, truth.alpha(p.Z, p.eps))
    want, got = twice / 2, lab.ops.coding_rate(p.Z, eps=p.eps)
    return Refutation(truth.error(twice, want), truth.error(got, want), f"{twice:.3f} instead of {want:.3f} nats")


@erratum("erratum-book-neumann", "7.k", source=f"{BOOK}, on unrolled compression", inside=draws.orthogonal_subspaces)
def book_neumann(lab: Lab, p: Sample) -> Refutation:
    r"""The Neumann sum begins at zero.

    $$(I + \beta G)^{-1} = \sum_{k \geq 1} (-\beta G)^k$$
    Corrected: $$(I + \beta G)^{-1} = \sum_{k \geq 0} (-\beta G)^k$$

    Assumes: β‖G‖ < 1, here ¼.
    Measured: error of the gradient with 25 terms, relative.
    Proof: The term k = 0 is I. Without it the gradient of a small Z, which is nearly βZ, vanishes.
    """
    top = np.max(np.linalg.norm(p.Z @ p.U, 2, axis=(1, 2)))
    Z = p.Z * np.sqrt(0.25 / truth.beta(p.Z, p.U, p.eps)) / top
    want = truth.gradient(lambda X: truth.subspace_rate(X, p.U, p.eps), Z)
    got = lab.ops.neumann_grad(Z, p.U, eps=p.eps, terms=25)
    first = truth.beta(Z, p.U, p.eps) * sum(Z @ basis @ basis.T for basis in p.U)
    found = truth.error(want - first, want)
    return Refutation(found, truth.error(got, want), f"without k = 0 the gradient is off by {found:.2f} of its size")


def _ranked(rng: np.random.Generator) -> Sample:
    """Two classes of 2 and 3 tokens in R⁵, and one singular value a class."""
    return Sample(s=float(rng.uniform(2.0, 4.0)), eps=0.5)


@erratum("erratum-book-ranks", "7.l", source=f"{BOOK}, a theorem on optima", inside=_ranked, margin=0.01)
def book_ranks(lab: Lab, p: Sample) -> Refutation:
    r"""Optimal ranks reach the smaller side, in tokens n (printed as m).

    $$r_k < \min(n_k, d)$$
    Corrected: $$r_k = \min(n_k, d) \;\mathrm{where\;the\;dimensions\;suffice}$$

    Assumes: Two classes of 2 and 3 tokens in five dimensions, orthogonal, all singular values s.
    Measured: rate reduction lost by ranks of one less, relative (corrected form: error of the operator).
    Proof: A further orthogonal direction adds ½ log(1 + αs²) − (n_k/2n) log(1 + α_ks²) > 0 (α_kn_k = αn, concavity);
    the theorem's first line forbids what its second asks for.
    """
    labels, full = np.array([0, 0, 1, 1, 1]), p.s * np.eye(5)
    less = full.copy()
    less[1, 1] = less[4, 4] = 0.0
    one_hot = np.eye(2)[labels]
    full_value, less_value = (
        float(truth.rate(Z, p.eps) - truth.partition_rate(Z, one_hot, p.eps)) for Z in (full, less)
    )
    got = lab.ops.rate_reduction(full, labels, eps=p.eps)
    witness = f"s = {p.s:.2f}: ΔR = {full_value:.3f} at full ranks, {less_value:.3f} at ranks of one less"
    return Refutation(1 - less_value / full_value, truth.error(got, full_value), witness)


def _labeled(rng: np.random.Generator) -> Sample:
    count = int(rng.integers(2, 6))
    return Sample(Z=rng.standard_normal((2 * count, 3)), count=count, eps=draws.spread(rng, 0.3, 1.0))


@erratum("erratum-book-entropy", "7.m", source=f"{BOOK}, on entropy", inside=_labeled, margin=0.1)
def book_entropy(lab: Lab, p: Sample) -> Refutation:
    r"""The entropy of N equally likely values has no 1/N, and a conditional entropy has a minus.

    $$H = \frac{1}{N}\log N, \quad H(y \mid x) = \sum p \log p$$
    Corrected: $$H = \log N, \quad H(y \mid x) = -\sum p \log p$$

    Assumes: N clusters of two tokens each; their labels are what the coding length pays for beside the tokens.
    Measured: error in the nats of a label, relative.
    Proof: −Σ (1/N) log(1/N) = log N. The label's price is read off `coding_length`, less that of the tokens in 60
    digits.
    """
    labels = np.arange(2 * p.count) // 2
    blocks = [p.Z[labels == k] for k in range(p.count)]
    tokens = sum((2 + 3) / 2 * truth.precise_logdet(block, 3 / (2 * p.eps**2)) for block in blocks)
    got = (coding_length(lab.array(p.Z), labels, eps=p.eps) - tokens) / len(labels)
    want = float(np.log(p.count))
    witness = f"N = {p.count}: {want / p.count:.3f} printed, {want:.3f} nats paid"
    size = max(1.0, tokens / len(labels))  # the label is what is left of a larger number
    return Refutation(1 - 1 / p.count, abs(float(got) - want) / size, witness)


@erratum("erratum-book-values", "7.n", source=f"{BOOK}, causal attention", inside=_sequence, margin=0.1)
def book_values(lab: Lab, p: Sample) -> Refutation:
    r"""Causal attention averages the values.

    $$\mathrm{SSA}_{\mathrm{causal}}(V) = \mathrm{softmax}(\mathrm{mask}(VV^\top))$$
    Corrected: $$\mathrm{SSA}_{\mathrm{causal}}(V) = \mathrm{softmax}(\mathrm{mask}(VV^\top))\,V$$

    Assumes: Five tokens of three coordinates, padded to five where the printed form is compared.
    Measured: relative error.
    Proof: The weights alone are n × n, not tokens: the printed form cannot be lifted by U_k unless n = p.
    """
    want = truth.attend(p.V, visible=lambda i, j: j <= i)
    weights = np.zeros((5, 5))
    for i, query in enumerate(p.V):
        weights[i, : i + 1] = truth.softmax([query @ key for key in p.V[: i + 1]])
    printed = truth.error(weights, np.pad(want, ((0, 0), (0, 2))))
    return Refutation(printed, truth.error(lab.ops.ssa(p.V, causal=True), want), f"off by {printed:.2f} of its size")
