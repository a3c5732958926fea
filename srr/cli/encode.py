"""`srr encode` and `srr decode`: tokens to bits and back, with the rate and the distortion measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from srr._array.files import printable, write_atomically


def encode(
    data: Annotated[Path | None, typer.Option(help="NPZ with Z, or NPY: tokens (n, d); else a mixture.")] = None,
    eps: Annotated[float, typer.Option(help="Distortion ε: root of the mean squared error of a token.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the dither, and of the mixture.")] = 0,
    out: Annotated[Path, typer.Option(help="New file for the code, NPZ.")] = Path("code.npz"),
) -> None:
    """Code tokens into bits at their coding rate, read them back, and say what rate and distortion came out."""
    from srr.fits.dithered import dithered_decode, dithered_encode
    from srr.mixtures import subspace_mixture
    from srr.ops import coding_rate

    if out.exists():
        raise FileExistsError(f"out must name a new file; got {out}, which exists")
    if data is None:
        Z: Any = subspace_mixture(n=2000, d=32, K=4, p=8, noise=0.3, seed=seed).Z
    else:
        loaded = np.load(data, allow_pickle=False)
        Z = loaded if isinstance(loaded, np.ndarray) else loaded["Z"]
    code = dithered_encode(Z, eps=eps, seed=seed)
    write_atomically(out, lambda file: np.savez(file, **vars(code)))
    error = float(np.mean(np.sum((dithered_decode(_read(out)) - Z) ** 2, axis=1)))
    rate, d = float(coding_rate(np.asarray(Z, dtype=np.float64), eps=eps)) / np.log(2), Z.shape[1]
    rows = (
        ("coding rate R", f"{rate:.3f} bits a token"),
        ("measured", f"{code.bits:.3f} bits a token"),
        ("above the rate", f"{(code.bits - rate) / d:.3f} bits a dimension, at most 0.254 expected"),
        ("distortion", f"{error:.5g} a token, {error / eps**2:.1%} of ε² = {eps**2:.5g}"),
        ("besides", f"{code.side_bits} bits once, for directions and variances"),
    )
    for name, text in rows:
        typer.echo(printable(f"{name:<15} {text}"))
    typer.echo(printable(f"written: {out}"))


def decode(
    code: Annotated[Path, typer.Argument(help="File that `srr encode` wrote.")],
    out: Annotated[Path, typer.Option(help="New NPY file for the tokens.")] = Path("tokens.npy"),
) -> None:
    """Read the tokens back from the bits of `srr encode`."""
    from srr.fits.dithered import dithered_decode

    if out.exists():
        raise FileExistsError(f"out must name a new file; got {out}, which exists")
    Z = dithered_decode(_read(code))
    write_atomically(out, lambda file: np.save(file, Z))
    typer.echo(printable(f"written: {out}, {Z.shape[0]} tokens of {Z.shape[1]} dimensions"))


def _read(path: Path) -> Any:
    from srr.fits.dithered import DitheredCode

    with np.load(path, allow_pickle=False) as found:
        if missing := {"words", "basis", "variances", "count", "eps", "seed", "reach"} - set(found.files):
            raise ValueError(f"{path} must be a file of `srr encode`; it lacks {', '.join(sorted(missing))}")
        words, basis, variances = (found[name] for name in ("words", "basis", "variances"))
        count, seed, reach = (int(found[name]) for name in ("count", "seed", "reach"))
        return DitheredCode(words, basis, variances, count, float(found["eps"]), seed, reach)
