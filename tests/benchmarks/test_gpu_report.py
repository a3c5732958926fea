"""The report of a CUDA machine, run on a CPU with small sizes and a clock that is counted by hand."""

import json
from pathlib import Path

import pytest

from tests.benchmarks import device_clock, device_operators, gpu_report
from tests.benchmarks.cases import RateCase

CASES = (RateCase("rate_reduction", 24, 6, 3, 1.0, 1.0), RateCase("subspace_coding_rate", 12, 8, 2, 1.0, 1.0))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every call takes one millisecond more than the last."""
    took: list[float] = []

    def once(form: device_clock.Form) -> float:
        form()
        took.append(1.0 + len(took))
        return took[-1]

    monkeypatch.setattr(device_clock, "once", once)
    return took


def test_the_median_of_turns(clock: list[float]) -> None:
    """Two forms in turns take 1, 3, 5 and 2, 4, 6 ms after the warm-up, which no clock sees."""
    calls: list[str] = []
    forms = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert device_clock.milliseconds(forms, rounds=3, warmup=1) == {"a": 3.0, "b": 4.0}
    assert calls == ["a", "b"] * 4


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_row_of_rates(case: RateCase, clock: list[float]) -> None:
    """Reference, float32, default and floor take 1 + 4 i, 2 + 4 i, 3 + 4 i, 4 + 4 i ms; of three the second counts."""
    row = device_operators.rate_row(case, rounds=3)
    assert (row["reference"], row["float32 core"], row["default"], row["floor"]) == (5.0, 6.0, 7.0, 8.0)
    assert row["ratio"] == pytest.approx(5 / 6)
    assert row["of floor"] == pytest.approx(8 / 6)


def test_operators_agree_with_numpy() -> None:
    rows = device_operators.correctness()
    assert len(rows) == 15
    assert max(value for row in rows for name, value in row.items() if name.startswith("torch")) < 1e-10


def test_the_report_is_written_whatever_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise RuntimeError("no such kernel")

    jobs = [("Fine", lambda: {"what": "a|b", "ms": 1.23456}), ("Fine", lambda: [{"what": "c"}]), ("Broken", broken)]
    monkeypatch.setattr(gpu_report, "jobs", lambda: jobs)
    assert gpu_report.main(tmp_path) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["Fine"] == [{"what": "a|b", "ms": 1.23456}, {"what": "c"}]
    assert report["Broken"][0]["error"] == "RuntimeError: no such kernel"
    assert "| a/b | 1.23 |" in (tmp_path / "gpu.md").read_text()
    assert "no such kernel" in capsys.readouterr().err


def test_nothing_new_begins_after_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "SECONDS", -1.0)
    monkeypatch.setattr(gpu_report, "jobs", lambda: [("Fine", lambda: {"what": 1})])
    assert gpu_report.main(tmp_path) == 0
    assert list(json.loads((tmp_path / "gpu.json").read_text())) == ["Left out for lack of time"]


def test_every_job_of_the_real_list_can_be_named() -> None:
    titles = [title for title, _ in gpu_report.jobs()]
    assert titles[0] == "Environment"
    assert all(callable(job) for _, job in gpu_report.jobs())
