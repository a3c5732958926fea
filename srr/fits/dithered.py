"""Tokens to bits and back: the code that the coding rate counts, with a real entropy coder."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from srr._array.checks import check_positive, check_tokens
from srr._array.namespace import Array, to_numpy

__all__ = ["DitheredCode", "dithered_encode", "dithered_decode"]

Numbers = np.ndarray[Any, np.dtype[Any]]
LARGEST = 1 << 16  # most cells on either side of zero; each takes 2⁻²⁴ of the coder's probabilities
NARROW = 1e-3  # least spread of a coordinate, in cells


@dataclass(frozen=True)
class DitheredCode:
    """What :func:`dithered_encode` writes: the bits, and what a decoder must know besides.

    Args:
        words: the bits, as unsigned words of 32.
        basis: directions of the tokens, orthonormal columns, shape (d, d).
        variances: energy of a token along each, shape (d,).
        count: number n of tokens.
        eps: distortion ε.
        seed: of the dither that both sides draw.
        reach: largest cell number, on either side of zero.
    """

    words: Numbers
    basis: Numbers
    variances: Numbers
    count: int
    eps: float
    seed: int
    reach: int

    @property
    def bits(self) -> float:
        """Bits a token."""
        return 32 * len(self.words) / self.count

    @property
    def side_bits(self) -> int:
        """Bits of basis and variances in float64, once for all tokens."""
        return 64 * (self.basis.size + self.variances.size)


def dithered_encode(Z: Array, *, eps: float, seed: int = 0) -> DitheredCode:
    r"""Code tokens with a mean squared error of at most ε² a token, at the rate plus at most 0.254 bits a dimension.

    Along the directions of ZᵀZ/n every coordinate is quantized to cells of width √12 δ,
    :math:`\delta^2 = \varepsilon^2/d`, after a dither that is uniform over a cell; a range coder writes the cells under
    a normal law with the coordinate's variance. Quantization then acts as independent noise of variance δ², and
    :math:`\tfrac12 \sum_i \log(1 + \lambda_i/\delta^2) = R(Z)` is what Gaussian noise would cost; the uniform law of a
    cell costs at most ½ log₂(2πe/12) = 0.254 bits more.

    Args:
        Z: tokens of shape (n, d), of zero mean.
        eps: distortion ε, in units of the norm of a token.
        seed: of the dither.

    Returns:
        A :class:`DitheredCode`.

    Raises:
        ImportError: constriction is missing.
        ValueError: tokens that are not one finite matrix, eps not positive, or so small that a cell number overflows.

    Source: Zamir and Feder (1992), entropy-coded dithered quantization; [MCR2], Section 2.

    Example:
        >>> import numpy as np
        >>> from srr.fits.dithered import dithered_decode, dithered_encode
        >>> Z = np.random.default_rng(0).normal(size=(500, 4))
        >>> code = dithered_encode(Z, eps=0.5)
        >>> bool(np.mean(np.sum((dithered_decode(code) - Z) ** 2, axis=1)) < 1.1 * 0.5**2)
        True
    """
    check_tokens(Z)
    if Z.ndim != 2:
        raise ValueError(f"Z must be one matrix of tokens (n, d); got shape {tuple(Z.shape)}")
    check_positive(eps, "eps")
    tokens = np.asarray(to_numpy(Z), dtype=np.float64)
    n, d = tokens.shape
    variances, basis = np.linalg.eigh(tokens.T @ tokens / n)
    width, dither = _dither(n, d, eps, seed)
    cells = np.rint((tokens @ basis + dither) / width)
    reach = int(np.max(np.abs(cells), initial=1.0))
    if reach > LARGEST:
        raise ValueError(f"eps must be larger for tokens of this size; {eps} needs more than {LARGEST} cells")
    means, spreads = _law(dither, width, variances)
    coder = _stream().queue.RangeEncoder()
    coder.encode(cells.astype(np.int32).ravel(), _model(reach), means, spreads)
    return DitheredCode(coder.get_compressed(), basis, np.maximum(variances, 0.0), n, float(eps), seed, reach)


def dithered_decode(code: DitheredCode) -> Numbers:
    """The tokens that the bits say, each coordinate shrunk by λ/(λ + δ²), the best linear estimate.

    Args:
        code: from :func:`dithered_encode`.

    Returns:
        Tokens of shape (n, d), float64.

    Raises:
        ImportError: constriction is missing.

    Source: Zamir and Feder (1992).
    """
    d = len(code.variances)
    width, dither = _dither(code.count, d, code.eps, code.seed)
    means, spreads = _law(dither, width, code.variances)
    cells = _stream().queue.RangeDecoder(code.words).decode(_model(code.reach), means, spreads).reshape(code.count, d)
    noise = code.eps**2 / d
    seen: Numbers = (cells * width - dither) * (code.variances / (code.variances + noise))
    return seen @ code.basis.T


def _dither(n: int, d: int, eps: float, seed: int) -> tuple[float, Numbers]:
    """Width of a cell, whose uniform law has the variance ε²/d, and the dither."""
    width = float(np.sqrt(12.0 / d) * eps)
    return width, np.random.default_rng(seed).uniform(-width / 2, width / 2, (n, d))


def _law(dither: Numbers, width: float, variances: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and spread of every cell number, flat."""
    spreads = np.maximum(np.sqrt(np.maximum(variances, 0.0)) / width, NARROW)
    return (dither / width).ravel(), np.broadcast_to(spreads, dither.shape).ravel().copy()


def _stream() -> Any:
    try:
        return importlib.import_module("constriction").stream
    except ImportError as missing:
        raise ImportError("the code needs constriction; install it with: pip install 'srr[verify]'") from missing


def _model(reach: int) -> Any:
    return _stream().model.QuantizedGaussian(-reach, reach)
