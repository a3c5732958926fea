"""The program as a user meets it: help, version, one sentence for a mistake, a traceback on demand."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from srr import __version__, nn
from srr.cli import app

ROOT = Path(__file__).parent.parent
EVERYDAY = {"verify", "solve", "train", "trace", "demo"}


def srr(*words, **options):
    command = [sys.executable, "-m", "srr", *words]
    plain = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}
    return subprocess.run(command, capture_output=True, text=True, env=plain, check=False, timeout=120, **options)


def assert_one_sentence(run, *, status=1, alone=True):
    """The error stream ends in one sentence; `train` shows the resolved configuration above it."""
    assert run.returncode == status, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 or not alone, run.stderr
    assert len(lines[-1]) > 15
    return lines[-1]


def test_version():
    run = srr("--version")
    assert (run.returncode, run.stdout) == (0, f"srr {__version__}\n")


def test_help_lists_every_command_with_what_it_does(capsys):
    assert app.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert {command.__name__ for command in app.COMMANDS} >= EVERYDAY
    for command in app.COMMANDS:
        assert command.__name__ in shown
        assert command.__doc__.split("\n", 1)[0][:30] in shown


@pytest.mark.parametrize("name", [command.__name__ for command in app.COMMANDS])
def test_every_command_has_help(name, capsys):
    assert app.main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: srr {name}" in shown


def test_a_wrong_word_is_wrong_usage():
    assert "nonsense" in assert_one_sentence(srr("nonsense"), status=2)
    assert "--nonsense" in assert_one_sentence(srr("solve", "--nonsense"), status=2)
    assert "--n" in assert_one_sentence(srr("solve", "--n", "many"), status=2)


def test_an_existing_run_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    message = assert_one_sentence(srr("solve", "--out", str(tmp_path)))
    assert str(tmp_path) in message
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_block_of_ones_own_is_trained_by_the_command(tmp_path, monkeypatch):
    """The table is asked when the network is built: a row added by a program is a word of the command there."""
    monkeypatch.setitem(nn.BLOCKS, "mine", dataclasses.replace(nn.BLOCKS["crate"], sign=-1, source="nowhere"))
    run = tmp_path / "run"
    words = ["--data", "mixture", "--epochs", "1", "model.block=mine", "model.depth=1", "trainer.progress=none"]
    assert app.main(["train", *words, "--out", str(run)]) == 0
    assert nn.load_model(run / "model").blocks[0].variant.source == "nowhere"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["solve", "--eps", "0"], "eps"),
        (["solve", "--n", "0"], "n"),
        (["train", "--data", "no-such-data"], "no-such-data"),
        (["train", "--model", "no_such_model"], "no_such_model"),
        (["trace", "no-such-run"], "no-such-run"),
        (["verify", "--backend", "abacus"], "abacus"),
    ],
)
def test_bad_input_is_one_sentence(words, named, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")] if words[0] in {"solve", "train"} else []
    status = app.main([*words, *out])
    assert status != 0
    shown = capsys.readouterr()
    run = subprocess.CompletedProcess(words, status, shown.out, shown.err)
    assert named in assert_one_sentence(run, status=status, alone=words[0] != "train")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_two_run_folders_are_refused(resume, tmp_path, capsys):
    words = ["--out", str(tmp_path / "a"), f"out={tmp_path / 'b'}"]
    assert app.main(["train", *resume, *words]) == 1
    assert "name two folders" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_resume_finds_its_folder_among_the_overrides(tmp_path, capsys):
    assert app.main(["train", "--resume", f"out={tmp_path / 'none'}"]) == 1
    assert "none is not a training run" in capsys.readouterr().err


def test_a_run_folder_that_utf_8_cannot_write_is_refused_before_it_is_made(tmp_path):
    words = [sys.executable, "-m", "srr", "train", "--data", "digits", "--out"]
    run = subprocess.run([*map(os.fsencode, words), b"runs/\xff"], cwd=tmp_path, capture_output=True, check=False)
    assert run.returncode == 1
    assert run.stderr.decode().strip() == r"config out must be Unicode text (a path in UTF-8); got 'runs/\udcff'"
    assert not any(tmp_path.iterdir())


def test_debug_shows_the_traceback(tmp_path):
    run = srr("--debug", "solve", "--eps", "0", "--out", str(tmp_path / "run"))
    assert run.returncode != 0
    assert "Traceback" in run.stderr
    assert "ValueError" in run.stderr


def boom(error):
    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("eps must be positive; got 0"), 1, "eps must be positive; got 0"),
        (FileNotFoundError(2, "No such file", "a.npz"), 1, "a.npz: No such file"),
        (ModuleNotFoundError("No module named 'lightning'", name="lightning"), 1, 'pip install "srr[train]"'),
        (KeyError("surprise"), 1, "--debug"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_errors_become_a_sentence_and_a_status(monkeypatch, capsys, error, status, said):
    (demo,) = (info for info in app.app.registered_commands if info.callback.__name__ == "demo")
    monkeypatch.setattr(demo, "callback", boom(error))
    monkeypatch.setattr(demo, "name", "demo")
    assert app.main(["demo"]) == status
    assert said in capsys.readouterr().err


def test_interrupt_is_clean(tmp_path):
    """Ctrl-C in the middle of work: no traceback, status 130. What work needs is loaded before the clock starts."""
    program = (
        "import sys, srr.plots.solutions, srr.cli.solve; from srr.cli.app import main;"
        "print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    )
    words = ["solve", "--n", "4000", "--d", "64", "--out", str(tmp_path / "run")]
    command = [sys.executable, "-c", program, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err
    assert process.returncode in (130, -signal.SIGINT, 0)


def hearing(*words):
    """A command that hears Ctrl-C, as from a terminal: a shell takes that from what it starts in the background."""
    hear = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", hear, sys.executable, *words]


def test_interrupt_is_clean_while_the_program_is_loaded(tmp_path):
    """Ctrl-C before there is anything to interrupt: what loads first is made to wait for it."""
    (tmp_path / "numpy.py").write_text("import time; print('loading', flush=True); time.sleep(60)")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)])])
    process = subprocess.Popen(
        hearing("-m", "srr", "--version"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "Interrupted.\n")
    assert process.returncode == 130


def test_a_library_leaves_ctrl_c_alone():
    words = hearing("-c", "import signal, srr; print(signal.getsignal(2) is signal.default_int_handler)")
    found = subprocess.run(words, capture_output=True, text=True, check=True)
    assert found.stdout == "True\n"
