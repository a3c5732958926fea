"""`srr solve`: what it writes, what it refuses, and that it never loses what is there."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import srr
from srr.cli.app import main

SMALL = ["--n", "80", "--d", "16", "--k", "4", "--p", "4"]


def run(*words):
    return main(["solve", *map(str, words)])


def test_a_run_leaves_numbers_and_pictures(tmp_path, capsys):
    out = tmp_path / "new" / "mix"
    assert run("--out", out, *SMALL, "--seed", 3) == 0
    printed = capsys.readouterr().out
    assert "distance to optimality" in printed.lower()
    assert sorted(file.name for file in out.iterdir()) == [
        "energies.png",
        "gram.png",
        "history.csv",
        "objective.png",
        "solution.npz",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["status"] == "converged"
    assert summary["settings"]["seed"] == 3
    with np.load(out / "solution.npz") as saved:
        value = srr.sparse_rate_reduction(saved["Z"], saved["U"], eps=0.5, lam=0.005)
        mix = srr.subspace_mixture(n=80, d=16, K=4, p=4, noise=0.3, seed=3)
        np.testing.assert_array_equal(saved["Z0"], mix.Z)
        np.testing.assert_array_equal(saved["labels"], mix.labels)
    assert summary["srr"] == pytest.approx(value, rel=1e-12)
    rows = list(csv.DictReader((out / "history.csv").open()))
    assert len(rows) == summary["steps"] + 1
    assert -float(rows[-1]["objective"]) == summary["srr"]
    for picture in out.glob("*.png"):
        pixels = np.asarray(Image.open(picture).convert("L"), dtype=float)
        assert pixels.shape[1] == 1080
        assert pixels.std() > 5


@pytest.mark.parametrize("solver", ["backtracking", "bb", "fixed", "accelerated"])
def test_every_solver_and_the_rotated_frame(tmp_path, solver):
    words = [*SMALL, "--rotated", "--noise", "0.1", "--solver", solver, "--max-steps", "400"]
    assert run("--out", tmp_path / "mix", *words) == 0
    summary = json.loads((tmp_path / "mix" / "summary.json").read_text())
    assert summary["tokens_on_own_subspace"] > 0.95
    assert summary["nonzeros"] < 0.1


def test_tokens_of_ones_own(tmp_path):
    mix = srr.subspace_mixture(n=50, d=8, K=2, p=3, noise=0.1, seed=0)
    np.savez(tmp_path / "tokens.npz", Z=mix.Z, U=mix.U)
    assert run("--out", tmp_path / "mix", "--data", tmp_path / "tokens.npz", "--outside", 1) == 0
    with np.load(tmp_path / "mix" / "solution.npz") as saved:
        np.testing.assert_array_equal(saved["Z0"], mix.Z)


def test_an_earlier_run_is_never_touched(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    assert run("--out", tmp_path, *SMALL) == 1
    assert "out must be a new or empty folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


def bad_data(tmp_path):
    (tmp_path / "damaged.npz").write_bytes(b"not an archive")
    np.savez(tmp_path / "no_bases.npz", Z=np.ones((3, 2)))
    np.savez(tmp_path / "misfit.npz", Z=np.ones((3, 2)), U=np.ones((1, 3, 1)))
    np.savez(tmp_path / "pickled.npz", Z=np.asarray([{}], dtype=object), U=np.ones((1, 3, 1)))
    np.savez(tmp_path / "nan.npz", Z=np.full((3, 2), np.nan), U=np.ones((1, 2, 1)))
    np.savez(tmp_path / "integers.npz", Z=np.ones((3, 2), dtype=int), U=np.ones((1, 2, 1)))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--solver", "newton"], "solver must be one of"),
        (["--eps", "0"], "eps must be"),
        (["--lam", "-1"], "lam must be"),
        (["--p", "20"], "d must be at least 80"),
        (["--tol", "-1"], "tol must be"),
        (["--data", "absent.npz"], "No such file"),
        (["--data", "damaged.npz"], "data must be a readable NPZ file"),
        (["--data", "pickled.npz"], "data must be a readable NPZ file"),
        (["--data", "no_bases.npz"], "lacks U"),
        (["--data", "misfit.npz"], "Z and U must have shapes"),
        (["--data", "nan.npz"], "Z must be finite"),
        (["--data", "integers.npz"], "real floating dtype"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, words, sentence):
    bad_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("--out", "mix", *words) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("mix/*"))


def test_a_run_folder_that_is_a_file(tmp_path, capsys):
    (tmp_path / "mix").write_text("a file")
    assert run("--out", tmp_path / "mix", *SMALL) == 1
    assert "which is a file" in capsys.readouterr().err
