"""From statements to results."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from srr.theory.lab import Lab
from srr.theory.proof import Proof, prove
from srr.theory.statement import ASSUMED, FAILS, HOLDS, PROVED, Finding, Statement


@dataclass(frozen=True)
class Result:
    """What was found for one statement.

    Attributes:
        statement: the statement.
        finding: verdict and measurements.
        samples: problems drawn.
        seconds: wall time.
        proof: its decided steps; None where it has none, or where python-flint or SymPy is missing.
    """

    statement: Statement[Any]
    finding: Finding
    samples: int = 0
    seconds: float = 0.0
    proof: Proof | None = None

    @property
    def passed(self) -> bool:
        """False exactly when the verdict is ``fails``."""
        return self.finding.verdict != FAILS

    def as_dict(self) -> dict[str, Any]:
        """The result as plain, JSON-ready values (a number that is not finite becomes a string)."""
        names = ("label", "item", "section", "title", "source", "kind", "quantity")
        about = {name: getattr(self.statement, name) for name in names}
        found = {name: _plain(value) for name, value in self.finding._asdict().items()}
        proof = None if self.proof is None else self.proof.as_dict()
        spent = {"samples": self.samples, "seconds": self.seconds}
        return about | {"passed": self.passed} | found | spent | {"proof": proof}

    @classmethod
    def of(cls, entry: Statement[Any], plain: dict[str, Any]) -> Result:
        """The result that :meth:`as_dict` made plain, also after a round trip through JSON.

        Args:
            entry: the statement it belongs to.
            plain: what ``as_dict`` returned.
        """
        found = {name: plain[name] for name in Finding._fields}
        numbers = {name: _numbers(value) for name, value in found.items() if name not in ("verdict", "note")}
        proof = None if plain["proof"] is None else Proof.of(plain["proof"])
        return cls(entry, Finding(**(found | numbers)), plain["samples"], plain["seconds"], proof)


def verify(
    statements: Iterable[Statement[Any]],
    lab: Lab | None = None,
    *,
    samples: int = 10,
    seed: int = 0,
    fresh: bool = False,
) -> Iterator[Result]:
    """Check statements one after another.

    Args:
        statements: what to check, from :func:`srr.theory.ledger`.
        lab: backend and dtype; NumPy in float64 by default.
        samples: random problems per statement, at most as many as it asks for. What must exist (a problem that
            breaks a statement outside its assumptions) is searched for further.
        seed: every statement draws from its own stream of this seed, so filters do not change numbers.
        fresh: decide the steps of proofs again; otherwise what was decided for the same claims is read back.

    Yields:
        One :class:`Result` per statement, as soon as it is known. An exception inside a statement is a failure that
        carries the message.

    Raises:
        ValueError: if samples is not positive, or seed is negative.

    Example:
        >>> from srr.theory import ledger, verify
        >>> [result.finding.verdict for result in verify(ledger(labels=["crate-7"]), samples=3)]
        ['holds']
        >>> (result,) = verify(ledger(labels=["rate-curvature-sharp"]), samples=1)
        >>> print(result.finding.verdict, "-", result.proof.steps[-1])
        proved - symbolic: −α/8 where ασ² = 3: -1/8 = -1/8 (one normal form)
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1; got {samples}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0; got {seed}")
    lab = Lab() if lab is None else lab
    for entry in statements:
        start = time.perf_counter()
        rng = np.random.default_rng([seed, zlib.crc32(entry.label.encode())])
        drawn = min(samples, entry.samples)
        try:
            finding = entry.judge(lab, rng, drawn)
        except Exception as error:  # noqa: BLE001  (a broken operator is a failed statement, not the end of the ledger)
            finding = Finding(FAILS, float("nan"), float("nan"), note=f"{type(error).__name__}: {error}")
        proof = None if entry.claims is None else prove(entry.claims, fresh=fresh)
        yield Result(entry, _settled(finding, proof), drawn, time.perf_counter() - start, proof)


def _settled(finding: Finding, proof: Proof | None) -> Finding:
    """The verdict once the proof is known: what is measured and proved is proved, a proof with a gap fails."""
    if proof is None or finding.verdict == FAILS:
        return finding
    if not proof.holds:
        gap = next(step for step in proof.steps if not step.ok)
        return finding._replace(verdict=FAILS, note=f"a step of its proof does not hold: {gap}")
    return finding._replace(verdict=PROVED) if finding.verdict in (HOLDS, ASSUMED) else finding


def _numbers(value: Any) -> Any:
    """The inverse of :func:`_plain` for numbers: lists become tuples, strings floats."""
    if isinstance(value, (list, tuple)):
        return tuple(_numbers(item) for item in value)
    return None if value is None else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else str(float(value))
    return value.item() if isinstance(value, np.generic) else value
