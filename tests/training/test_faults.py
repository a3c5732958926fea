"""What happens to a run when something goes wrong: nothing is lost, and one sentence says what it was."""

import os
import random
import resource
import signal
import sys
import time
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from srr.training.checkpoint import read_checkpoint, resumable
from srr.training.module import NonFiniteError, first_nonfinite
from srr.training.run import load_run_config, train

EVERYTHING_RANDOM = [
    "trainer.checkpoint_every=1",
    "trainer.ema=0.9",
    "augment.flip=true",
    "augment.mixup=0.5",
    "augment.erasing=0.5",
    "optim.name=lion",
]
CONTENTS = ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "global_step", "epoch", "DataModule")


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def in_child(action):
    """Run an action in a forked process, whose parent may kill it; returns its process number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        action()
        status = 0
    except SystemExit as reason:
        status = reason.code
    finally:
        os._exit(status)


def same_end(run, reference):
    found, wanted = (read_checkpoint(r / "checkpoints" / "last.ckpt") for r in (run, reference))
    assert [key for key in CONTENTS if not equal(found[key], wanted[key])] == []
    assert (run / "model/model.safetensors").read_bytes() == (reference / "model/model.safetensors").read_bytes()
    assert (run / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(tiny, tmp_path):
    words = [*EVERYTHING_RANDOM, "data.samples=300"]  # 90 steps
    start = time.perf_counter()
    train(tiny(*words, out=tmp_path / "reference"))
    whole = time.perf_counter() - start
    config = tiny(*words, out=tmp_path / "run")
    moments, kills = random.Random(0), 0
    while kills < 10:
        begun = (tmp_path / "run" / "config.yaml").exists()
        child = in_child(lambda again=begun: train(config, resume=again))
        time.sleep(moments.uniform(0.02, 0.35 * whole))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status in (signal.SIGKILL, 0), f"the process killed as number {kills} failed by itself"
        kills += 1
        if not begun and not (tmp_path / "run" / "config.yaml").exists():
            kills -= 1  # killed before the run existed: nothing to come back to
    train(config, resume=True)
    same_end(tmp_path / "run", tmp_path / "reference")


@pytest.mark.parametrize("step", [3, 5, 7])
def test_a_stop_at_any_step_resumes_bit_for_bit(tiny, tmp_path, step):
    words = [*EVERYTHING_RANDOM, "trainer.accumulate=2", "trainer.clip_norm=0.5", "optim.name=muon"]
    train(tiny(*words, out=tmp_path / "reference"))
    _stop_after(tiny(*words, out=tmp_path / "run"), step)
    train(load_run_config(tmp_path / "run"), resume=True)
    same_end(tmp_path / "run", tmp_path / "reference")


def _stop_after(config, steps):
    """Kill a run right after the checkpoint of a step appears."""

    def action():
        from srr.training import callbacks

        save = callbacks.KeepCheckpoints.save_last

        def save_and_die(self, trainer):
            save(self, trainer)
            if trainer.global_step == steps:
                os.kill(os.getpid(), signal.SIGKILL)

        callbacks.KeepCheckpoints.save_last = save_and_die
        train(config)

    assert os.waitpid(in_child(action), 0)[1] == signal.SIGKILL


def test_a_truncated_last_checkpoint_falls_back_and_says_so(tiny, tmp_path, capsys):
    train(tiny(*EVERYTHING_RANDOM, out=tmp_path / "reference"))
    _stop_after(tiny(*EVERYTHING_RANDOM, out=tmp_path / "run"), 8)
    last = tmp_path / "run/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    path, notes = resumable(tmp_path / "run")
    assert path.name == "previous.ckpt"
    assert len(notes) == 1
    assert "last.ckpt is damaged" in notes[0]
    train(load_run_config(tmp_path / "run"), resume=True)
    assert "falling back" in " ".join(capsys.readouterr().err.split())
    same_end(tmp_path / "run", tmp_path / "reference")


def test_a_flipped_bit_is_found_before_anything_is_used(tiny, tmp_path, capsys):
    """At any place of the file: what is read is what was written, or the one before it is taken and said so."""
    train(tiny("trainer.max_steps=4", "trainer.checkpoint_every=1"))
    last = tmp_path / "run/checkpoints/last.ckpt"
    content, wanted = last.read_bytes(), read_checkpoint(last)
    places, found = random.Random(0), 0
    for _ in range(300):
        place = places.randrange(len(content))
        last.write_bytes(content[:place] + bytes([content[place] ^ (1 << places.randrange(8))]) + content[place + 1 :])
        try:
            read = read_checkpoint(last)
        except ValueError:
            found += 1
        else:
            assert equal(read, wanted)
    assert found > 100  # the rest lies in the padding between records
    tensor = next(iter(wanted["state_dict"].values())).numpy().tobytes()
    place = content.index(tensor)
    last.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    path, notes = resumable(tmp_path / "run")
    assert path.name == "previous.ckpt"
    assert "checksum" in notes[0]
    assert "falling back" in notes[0]


def test_a_checkpoint_without_the_state_of_a_run_is_named_and_the_one_before_it_taken(tiny, tmp_path):
    train(tiny("trainer.max_steps=4", "trainer.checkpoint_every=1"))
    last = tmp_path / "run/checkpoints/last.ckpt"
    whole = read_checkpoint(last)
    for key in ("global_step", "epoch", "loops", "optimizer_states", "lr_schedulers"):
        torch.save({k: v for k, v in whole.items() if k != key}, last)
        path, notes = resumable(tmp_path / "run")
        assert path.name == "previous.ckpt"
        assert f"it has no {key}" in notes[0]
    torch.save({**whole, "global_step": "four"}, last)
    assert "its global_step is str, and a run keeps int there" in resumable(tmp_path / "run")[1][0]
    torch.save(whole, last)
    assert resumable(tmp_path / "run") == (last, [])


def test_a_record_that_turns_into_a_folder_or_unpacks_is_refused(tmp_path):
    """One bit in the table of contents makes torch leave a tensor as the memory was; a packed record may be a bomb."""
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.arange(9.0)}}, path)
    with zipfile.ZipFile(path) as content, zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        for record in content.infolist():
            packed.writestr(record, content.read(record), zipfile.ZIP_DEFLATED)
    text = bytearray(path.read_bytes())
    entry = text.rindex(b"PK\x01\x02", 0, text.rindex(b"data/0"))
    text[entry + 38] ^= 0x10
    (tmp_path / "folder").write_bytes(text)
    for name in ("packed", "folder"):
        with pytest.raises(ValueError, match="not stored as torch stores it"):
            read_checkpoint(tmp_path / name)


def test_two_damaged_checkpoints_are_refused(tiny, tmp_path):
    train(tiny("trainer.max_epochs=2"))
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run/checkpoints" / name).write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="no readable checkpoint"):
        train(load_run_config(tmp_path / "run"), resume=True)


def test_a_checkpoint_that_holds_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'executed'}",))

    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "executed").exists()


def test_sigterm_saves_and_leaves_with_status_zero(tiny, tmp_path):
    words = [*EVERYTHING_RANDOM, "data.samples=300"]
    train(tiny(*words, out=tmp_path / "reference"))
    config = tiny(*words, out=tmp_path / "run")
    child = in_child(lambda: sys.exit(0 if "stopped" in train(config) else 3))
    while not (tmp_path / "run/checkpoints/last.ckpt").exists():
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] < 90
    train(load_run_config(tmp_path / "run"), resume=True)
    same_end(tmp_path / "run", tmp_path / "reference")


def test_a_full_disk_is_one_sentence_and_keeps_the_checkpoint_before(tiny, tmp_path):
    """The limit on file size fails a write half-way, as a full disk does."""
    config = tiny("trainer.checkpoint_every=1", out=tmp_path / "run")
    first = tmp_path / "run/checkpoints/last.ckpt"

    def action():
        from srr.training import callbacks

        save = callbacks.KeepCheckpoints.save_last

        def save_small(self, trainer):
            if trainer.global_step == 4:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                size = first.stat().st_size // 2
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            save(self, trainer)

        callbacks.KeepCheckpoints.save_last = save_small
        try:
            train(config)
        except OSError as error:
            sys.exit(7 if "last.ckpt could not be written: File too large" in str(error) else 8)

    assert os.waitstatus_to_exitcode(os.waitpid(in_child(action), 0)[1]) == 7
    assert read_checkpoint(first)["global_step"] == 3
    assert list(first.parent.glob(".*tmp")) == []


def test_an_unwritable_run_folder_is_one_sentence(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written: Not a directory"):
        train(tiny(out=tmp_path / "file" / "run"))


def test_an_existing_run_is_refused_and_untouched(tiny, tmp_path):
    train(tiny("trainer.max_epochs=1"))
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(FileExistsError, match="exists already"):
        train(tiny())
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before


def test_a_nan_loss_stops_and_names_layer_and_operator(tiny, tmp_path, monkeypatch):
    from srr.nn import ISTA

    forward, calls = ISTA.forward, []

    def breaks_later(self, Z):
        calls.append(0)
        return forward(self, Z) if len(calls) < 30 else torch.log(-1 - forward(self, Z))

    monkeypatch.setattr(ISTA, "forward", breaks_later)
    with pytest.raises(NonFiniteError, match=r"operator log in layer blocks\.\d\.dictionary"):
        train(tiny("trainer.checkpoint_every=1"))
    kept = read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")
    assert all(torch.isfinite(v).all() for v in kept["state_dict"].values())
    assert kept["global_step"] > 0


def test_a_gradient_that_is_not_finite_is_named_before_it_reaches_the_weights(tiny, tmp_path, monkeypatch):
    from srr.training.module import TrainingModule

    def poison(self, optimizer):
        if self.global_step == 2:
            self.model.blocks[1].dictionary.D.grad[0, 0] = float("inf")
        original(self, optimizer)

    original = TrainingModule.on_before_optimizer_step
    monkeypatch.setattr(TrainingModule, "on_before_optimizer_step", poison)
    with pytest.raises(NonFiniteError, match=r"gradient of blocks\.1\.dictionary\.D is not finite"):
        train(tiny("trainer.checkpoint_every=1"))
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 2


def test_blame_reports_a_parameter_that_is_broken_already():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    assert "parameter 0.weight" in first_nonfinite(model, lambda: model(torch.ones(1, 2)))


def test_a_run_killed_before_its_first_checkpoint_begins_again(tiny, tmp_path):
    config = tiny(*EVERYTHING_RANDOM, out=tmp_path / "run")
    train(config)
    for path in (tmp_path / "run/checkpoints").iterdir():
        path.unlink()
    weights = load_file(tmp_path / "run/model/model.safetensors")
    train(config, resume=True)
    assert equal(load_file(tmp_path / "run/model/model.safetensors"), weights)


@pytest.mark.parametrize("where", ["after the last checkpoint", "after everything"])
def test_resuming_a_run_that_is_at_its_end_changes_nothing(tiny, tmp_path, where):
    reference = tiny(*EVERYTHING_RANDOM, out=tmp_path / "reference")
    wanted = train(reference)
    if where == "after everything":
        train(tiny(*EVERYTHING_RANDOM, out=tmp_path / "run"))
    else:
        _stop_after(tiny(*EVERYTHING_RANDOM, out=tmp_path / "run"), 15)
    for _ in range(2):
        found = train(load_run_config(tmp_path / "run"), resume=True)
        same_end(tmp_path / "run", tmp_path / "reference")
        assert {k: found[k] for k in ("val_loss", "val_accuracy", "steps")} == {
            k: wanted[k] for k in ("val_loss", "val_accuracy", "steps")
        }
