"""Tokens to bits and back: rate and distortion against closed forms, and the command that does it."""

import numpy as np
import pytest

import srr
from srr.cli.app import main
from srr.fits.dithered import dithered_decode, dithered_encode

pytest.importorskip("constriction")
RNG = np.random.default_rng(3)
Z = RNG.standard_normal((3000, 6)) * np.array([3.0, 2.0, 1.0, 0.5, 0.1, 0.0])


@pytest.mark.parametrize("eps", [0.05, 0.5])
def test_rate_and_distortion_are_those_of_the_theory(eps):
    code = dithered_encode(Z, eps=eps, seed=1)
    error = np.mean(np.sum((dithered_decode(code) - Z) ** 2, axis=1))
    noise, energy = eps**2 / 6, np.linalg.eigvalsh(Z.T @ Z / len(Z))
    rate = np.sum(np.log2(1 + energy / noise)) / 2
    assert error == pytest.approx(np.sum(energy * noise / (energy + noise)), rel=0.05)
    assert rate - 0.05 < code.bits < rate + 6 * 0.2547
    assert code.side_bits == 64 * 42


def test_the_decoder_knows_only_the_code():
    code = dithered_encode(Z, eps=0.5, seed=1)
    other = dithered_encode(Z, eps=0.5, seed=2)
    assert not np.array_equal(code.words, other.words)
    assert np.array_equal(dithered_decode(code), dithered_decode(code))
    worst = np.max(np.abs(dithered_decode(code) @ code.basis - Z @ code.basis), axis=0)
    assert np.all(worst < np.sqrt(12 / 6) * 0.5 + 4 * np.sqrt(code.variances))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one matrix of tokens"):
        dithered_encode(Z[None], eps=0.5)
    with pytest.raises(ValueError, match="eps must be larger"):
        dithered_encode(Z, eps=1e-6)


def test_encode_and_decode_commands(tmp_path, capsys):
    data, code, back = (tmp_path / name for name in ("tokens.npy", "code.npz", "back.npy"))
    np.save(data, Z)
    assert main(["encode", "--data", str(data), "--eps", "0.5", "--out", str(code)]) == 0
    out = capsys.readouterr().out
    assert f"{srr.coding_rate(Z, eps=0.5) / np.log(2):.3f} bits a token" in out
    assert code.stat().st_size < Z.nbytes / 4
    assert main(["decode", str(code), "--out", str(back)]) == 0
    assert np.mean(np.sum((np.load(back) - Z) ** 2, axis=1)) < 0.26
    assert main(["encode", "--data", str(data), "--out", str(code)]) == 1
    assert "exists" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", Z=Z)
    assert main(["decode", str(tmp_path / "other.npz"), "--out", str(tmp_path / "x.npy")]) == 1
    assert "must be a file of" in capsys.readouterr().err
