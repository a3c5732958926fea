"""Solutions on disk, and what results look like in a terminal and a notebook."""

from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import srr
from srr.solvers.driver import Solution


@pytest.fixture
def solved() -> Solution:
    mix = srr.subspace_mixture(n=20, d=8, K=2, p=4, noise=0.3, seed=0)
    problem = srr.SparseRateReduction(mix.U, 0.5, srr.UnitL1(0.01))
    return srr.minimize(problem, np.stack([mix.Z, 2 * mix.Z[::-1]]), srr.ProximalGradient(), max_steps=15, tol=1e-2)


def test_a_solution_comes_back_as_it_was(solved: Solution, tmp_path: Path) -> None:
    solved.save(tmp_path / "a.npz")
    again = Solution.load(tmp_path / "a.npz")
    for name in ("Z", "steps", "objective", "residual"):
        np.testing.assert_array_equal(getattr(again, name), getattr(solved, name))
        assert getattr(again, name).dtype == getattr(solved, name).dtype
    np.testing.assert_array_equal(again.history.objective, solved.history.objective)
    np.testing.assert_array_equal(again.history.residual, solved.history.residual)
    assert again.status.tolist() == solved.status.tolist()


def test_a_loaded_solution_goes_on(tmp_path: Path) -> None:
    problem = srr.SparseCoding(np.ones((1, 2)), np.eye(2), srr.L1(0.1))
    srr.minimize(problem, np.zeros((1, 2)), srr.Accelerated()).save(tmp_path / "one.npz")
    loaded = Solution.load(tmp_path / "one.npz")
    assert loaded.status is srr.Status.CONVERGED
    assert loaded.converged
    np.testing.assert_allclose(srr.minimize(problem, loaded, srr.Accelerated()).Z, [[0.9, 0.9]])


def test_tokens_of_torch_are_saved(tmp_path: Path) -> None:
    problem = srr.SparseCoding(torch.ones(1, 2), torch.eye(2), srr.L1(0.1))
    srr.minimize(problem, torch.zeros(1, 2), srr.Accelerated()).save(tmp_path / "t.npz")
    assert Solution.load(tmp_path / "t.npz").Z.dtype == np.float32


def test_what_is_no_solution_is_refused(solved: Solution, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end in \.npz"):
        solved.save(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        Solution.load(tmp_path / "none.npz")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="torn"):
        Solution.load(tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", Z=np.eye(2))
    with pytest.raises(ValueError, match="lacks"):
        Solution.load(tmp_path / "other.npz")
    np.savez(tmp_path / "object.npz", Z=np.asarray([{}], dtype=object))
    with pytest.raises(ValueError, match="object"):
        Solution.load(tmp_path / "object.npz")
    solved.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as file:
        arrays = {**file, "status": np.asarray(["FINE", "FINE"])}
    np.savez(tmp_path / "strange.npz", **arrays)
    with pytest.raises(ValueError, match="FINE"):
        Solution.load(tmp_path / "strange.npz")
    fit = srr.SubspaceMixture(1, 1).fit(np.random.default_rng(0).standard_normal((9, 3)), seed=0)
    with pytest.raises(TypeError, match="one array"):
        fit.solution.save(tmp_path / "fit.npz")


def test_progress_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    problem = srr.SparseCoding(np.ones((2, 1, 2)), np.eye(2), srr.L1(0.1))
    srr.minimize(problem, np.zeros((2, 1, 2)), srr.Accelerated(), callbacks=[srr.solvers.Progress()])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("step 0  objective 1  residual ")  # ½·2 for each item, all of it unexplained
    assert printed[0].endswith("2 of 2 running")
    assert printed[-1].endswith("0 of 2 running")


class Balanced(HTMLParser):
    """Fails where tags are not closed in order, and collects the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(result: object) -> tuple[str, list[ElementTree.Element]]:
    """Text and pictures of the HTML; pictures must be well formed."""
    page, html = Balanced(), result._repr_html_()
    page.feed(html)
    assert not page.open
    pictures = [part[: part.index("</svg>") + 6] for part in html.split("<div>") if part.startswith("<svg")]
    assert "<script" not in html
    return page.text, [ElementTree.fromstring(picture) for picture in pictures]


def test_solutions_show_their_status_and_their_curves(solved: Solution) -> None:
    assert "(2, 20, 8) float64" in repr(solved)
    assert len(repr(solved)) < 200
    text, (picture,) = shown(solved)
    assert "log10 residual" in text
    falling = np.asarray(solved.history.objective)[:, 0]  # the first of the batch
    assert f"objective: {falling[0]:.4g} to {falling[-1]:.4g}" in text
    curves = picture.findall("polyline")
    assert [len(curve.get("points").split()) for curve in curves] == [len(solved.history.objective)] * 2
    heights = [float(point.split(",")[1]) for point in curves[0].get("points").split()]
    assert heights == sorted(heights)  # downward in the picture as the objective falls


def test_a_solution_of_parameters_has_a_repr() -> None:
    fit = srr.SubspaceMixture(1, 1).fit(np.random.default_rng(0).standard_normal((9, 3)), seed=0)
    assert "MixtureParameters" in repr(fit.solution)
    assert shown(fit.solution)[0]


def test_mixtures_show_which_class_lies_in_which_subspace() -> None:
    mix = srr.subspace_mixture(n=40, d=8, K=3, p=[1, 2, 2], seed=0)
    assert repr(mix) == "Mixture(tokens 40 of dimension 8, subspaces 3 of dimension 1 to 2, dtype float64)"
    _, (picture,) = shown(mix)
    shades = [int(square.get("fill")[4:].split(",")[0]) for square in picture.findall("rect")]
    np.testing.assert_array_equal(np.asarray(shades).reshape(3, 3) == 0, np.eye(3, dtype=bool))  # no noise: all of it


def test_traces_show_their_curves() -> None:
    mix = srr.subspace_mixture(n=30, d=8, K=2, p=4, noise=0.1, seed=0)
    steps = [lambda Z: srr.ops.soft_threshold(Z, threshold=0.1)] * 3
    trace = srr.layer_trace(steps, mix.Z, U=mix.U, eps=0.5)
    assert repr(trace).startswith("LayerTrace(layers 3, R^c under the first bases ")
    text, (picture,) = shown(trace)
    first, last = (np.mean(np.abs(mix.Z) > threshold) for threshold in (0.1, 0.3))  # three thresholds of 0.1
    assert f"share of non-zeros: {first:.4g} to {last:.4g}" in text
    assert len(picture.findall("polyline")) == 3


def test_a_thinned_gram_matrix_says_so() -> None:
    mix = srr.subspace_mixture(n=1500, d=4, K=2, p=1, seed=0)
    axis = srr.plots.plot_gram(mix.Z, mix.Z, mix.labels).axes[0]
    assert "(750 of 1,500 drawn)" in axis.get_xlabel()
    few = srr.plots.plot_gram(mix.Z[:10], mix.Z[:10], mix.labels[:10]).axes[0]
    assert few.get_xlabel() == "token, by class"
