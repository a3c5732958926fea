"""Files from a stranger: nothing in them is executed, and nothing in them can fill memory or disk."""

import os
import pickle
import shutil

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from srr.cli.app import main
from srr.nn import create_model
from srr.training.checkpoint import check_sharded, load_sharded
from srr.training.run import train


class Evil:
    """Runs a command when it is unpickled without a limit."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.fixture
def shards(tmp_path):
    """A sharded checkpoint of a small network, as one process writes it."""
    model = create_model("crate_micro", depth=1)
    folder = tmp_path / "last.ckpt"
    state = {"state_dict": {f"model.{k}": v for k, v in model.state_dict().items()}, "optimizer_0": {"lr": 0.1}}
    with pytest.warns(UserWarning, match="torch.distributed"):
        save(state, checkpoint_id=folder, no_dist=True)
    torch.save({"global_step": 3, "state_dict": {}}, folder / "meta.pt")
    return folder


def test_an_honest_sharded_checkpoint_passes(shards):
    check_sharded(shards)
    load_sharded(create_model("crate_micro", depth=1), shards)


def test_a_pickle_in_place_of_the_description_of_shards_is_not_run(shards, tmp_path):
    (shards / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    with pytest.raises(ValueError, match=r"not opened: it names posix.system"):
        load_sharded(create_model("crate_micro", depth=1), shards)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_a_plain_value_is_not_run(shards, tmp_path):
    """Values that are no tensors lie in the shard itself; torch would unpickle them without a limit."""
    with (shards / ".metadata").open("rb") as file:
        description = pickle.load(file)
    (place,) = (v for k, v in description.storage_data.items() if k.fqn == "optimizer_0.lr")
    torch.save(Evil(tmp_path / "executed"), shards / "evil.distcp")
    place.relative_path, place.offset, place.length = "evil.distcp", 0, (shards / "evil.distcp").stat().st_size
    (shards / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(ValueError, match="is not opened"):
        check_sharded(shards)
    place.relative_path = "../elsewhere"
    (shards / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(ValueError, match="points to"):
        check_sharded(shards)
    assert not (tmp_path / "executed").exists()


def test_resuming_the_run_of_a_stranger_executes_nothing(tiny, shards, tmp_path, capsys):
    """The config asks for sharding, the checkpoint is a folder, and every pickle in it is hostile."""
    train(tiny("trainer.max_epochs=1"))
    run = tmp_path / "run"
    text = (run / "config.yaml").read_text()
    assert "strategy: auto" in text
    (run / "config.yaml").write_text(text.replace("strategy: auto", "strategy: fsdp2"))
    shutil.rmtree(run / "checkpoints")
    for victim in (".metadata", "meta.pt"):
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        shutil.copytree(shards, run / "checkpoints" / "last.ckpt")
        evil = Evil(tmp_path / "executed")
        path = run / "checkpoints" / "last.ckpt" / victim
        path.write_bytes(pickle.dumps(evil)) if victim == ".metadata" else torch.save(evil, path)
        assert main(["train", "--resume", "--out", str(run)]) == 1
        assert "sharded checkpoint" in " ".join(capsys.readouterr().err.split())
        assert not (tmp_path / "executed").exists()
