"""What the page on ReduNet says of the digits, computed again."""

import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from srr.estimators import ReduNetClassifier

PAGE = (Path(__file__).parents[2] / "docs" / "redunet.md").read_text(encoding="utf-8")


def printed(row: str) -> tuple[float, float]:
    """Mean and spread in the row of the table that begins so."""
    found = re.search(rf"^\| {re.escape(row)}[^|]*\| ([\d.]+) ± ([\d.]+) \|", PAGE, re.MULTILINE)
    assert found is not None, row
    return float(found[1]), float(found[2])


def splits() -> list[list[np.ndarray]]:
    X, y = load_digits(return_X_y=True)
    return [train_test_split(X, y, test_size=0.2, random_state=seed, stratify=y) for seed in range(5)]


def subspaces(train: np.ndarray, test: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Class whose 16 leading right singular vectors hold most of a digit."""
    bases = [np.linalg.svd(train[classes == k], full_matrices=False)[2][:16] for k in range(10)]
    return np.array([((test @ basis.T) ** 2).sum(1) for basis in bases]).argmax(0)


@pytest.mark.parametrize("row", ["nearest subspace", "ReduNet, 0 layers"])
def test_the_table_of_the_page_is_what_comes_out(row: str) -> None:
    scores = []
    for train, test, classes, truth in splits():
        if row == "nearest subspace":
            scores.append(np.mean(subspaces(train, test, classes) == truth))
        else:
            scores.append(ReduNetClassifier(0.5, 0, affine=False).fit(train, classes).score(test, truth))
    one = 1 / 360 / 5  # a single digit that falls the other way on another machine
    mean, spread = printed(row)
    assert abs(np.mean(scores) - mean) <= 5e-4 + one
    assert abs(np.std(scores) - spread) <= 5e-4 + 2 * one
