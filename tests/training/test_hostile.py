"""Files from a stranger: nothing in them is executed, and nothing in them can fill memory or disk."""

import gzip
import os
import pickle
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from srr.cli.app import main
from srr.nn import create_model, load_model
from srr.nn.preprocessing import decode, open_path, read_image
from srr.training import checkpoint
from srr.training.checkpoint import load_sharded, read_description
from srr.training.config import DataConfig, ModelSection, read_config_file, resolve
from srr.training.run import check_size, initial_model, train
from srr.training.sources import load_data, read_idx


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
    read_description(shards)
    load_sharded(create_model("crate_micro", depth=1), shards)


def test_a_pickle_in_place_of_the_description_of_shards_is_not_run(shards, tmp_path):
    (shards / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "executed")))
    with pytest.raises(ValueError, match=r"not opened: it names posix.system"):
        load_sharded(create_model("crate_micro", depth=1), shards)
    assert not (tmp_path / "executed").exists()


def test_a_description_that_changes_when_it_is_read_again_is_not_run(shards, tmp_path):
    """Ours reads it with a limit and torch reads it again without one.

    It keeps names in the table of ``torch.serialization._get_layout``: allowed ones on the first reading, and those of
    a command on the second, which it tells apart by what the first left there.
    """
    table = b"ctorch.serialization\n_get_layout\n"

    def text(value):
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def keep(*pairs):  # BUILD: sets the attribute ``cache`` of the function
        return table + b"}" + text("cache") + b"}" + b"".join(k + v + b"s" for k, v in pairs) + b"sb0"

    def choose(first, second):
        return keep((text("K"), first), (b"h\x01", second)) + table + text("K") + b"\x85R"

    mark = tmp_path / "executed"
    code = b"\x80\x04" + table + text("torch.strided") + b"\x85Rq\x010"
    code += choose(text("torch.distributed.checkpoint.metadata"), text("posix")) + b"q\x020"
    code += choose(text("BytesStorageMetadata"), text("system")) + b"q\x030"
    code += choose(b")", text(f"touch {mark}") + b"\x85") + b"q\x040"
    code += keep((text("torch.strided"), text("K"))) + b"h\x02h\x03\x93h\x04R0"
    with (shards / ".metadata").open("rb") as file:
        code += pickle.dumps(pickle.load(file), protocol=2)[2:]
    (shards / ".metadata").write_bytes(code)
    before = torch.serialization._get_layout.cache
    try:
        with pytest.raises(ValueError, match="sets attributes of"):
            load_sharded(create_model("crate_micro", depth=1), shards)
    finally:
        torch.serialization._get_layout.cache = before
    assert not mark.exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("longer", "leaves out a part of"),
        ("shorter", "leaves out a part of"),
        ("tail", r"points to a part of '__0_0.distcp': it describes [\d,]+ bytes of [\d,]+"),
        ("cut", "points outside '__0_0.distcp'"),
        ("link", "points outside '__0_0.distcp'"),
    ],
)
def test_a_shard_is_an_ordinary_file_and_as_long_as_its_description_says(shards, tmp_path, what, words):
    with (shards / ".metadata").open("rb") as file:
        description = pickle.load(file)
    (place,) = (v for k, v in description.storage_data.items() if k.fqn == "optimizer_0.lr")
    shard = shards / place.relative_path
    if what in {"longer", "shorter"}:
        place.length += 1 if what == "longer" else -1
        (shards / ".metadata").write_bytes(pickle.dumps(description))
    elif what == "link":
        os.symlink(shard.rename(tmp_path / "elsewhere"), shard)
    else:
        content = shard.read_bytes()
        shard.write_bytes(content + b"more" if what == "tail" else content[:-1])
    with pytest.raises(ValueError, match=words):
        read_description(shards)


def test_a_description_is_checked_and_used_in_one_reading(shards, tmp_path, monkeypatch):
    """Somebody puts other files in place between check and use: what was checked is used, and nothing is run."""
    evil = pickle.dumps(Evil(tmp_path / "executed"))
    check = checkpoint.read_description

    def and_then_swap(folder):
        found = check(folder)
        (shards / ".metadata").write_bytes(evil)
        return found

    monkeypatch.setattr(checkpoint, "read_description", and_then_swap)
    model = create_model("crate_micro", depth=1)
    load_sharded(model, shards)
    assert not (tmp_path / "executed").exists()


def test_a_value_is_read_as_plain_even_when_its_file_was_changed_after_the_check(shards, tmp_path):
    """torch opens the shard again for each value, and would unpickle what is no tensor without a limit."""
    reader = checkpoint._Reader(shards)
    (place,) = (v for k, v in reader.description.storage_data.items() if k.fqn == "optimizer_0.lr")
    torch.save(Evil(tmp_path / "executed"), shards / place.relative_path)
    place.offset, place.length = 0, (shards / place.relative_path).stat().st_size
    with pytest.raises(CheckpointException, match="weights_only"), pytest.warns(UserWarning, match="distributed"):
        load({"optimizer_0": {"lr": 0.0}}, storage_reader=reader, planner=checkpoint._Planner(), no_dist=True)
    assert not (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_a_plain_value_is_not_run(shards, tmp_path):
    """Values that are no tensors lie in the shard itself; torch would unpickle them without a limit."""
    with (shards / ".metadata").open("rb") as file:
        description = pickle.load(file)
    (place,) = (v for k, v in description.storage_data.items() if k.fqn == "optimizer_0.lr")
    torch.save(Evil(tmp_path / "executed"), shards / "evil.distcp")
    place.relative_path, place.offset, place.length = "evil.distcp", 0, (shards / "evil.distcp").stat().st_size
    others = [v for v in description.storage_data.values() if v is not place]
    for at, other in enumerate(others):  # the tensors in one file without a gap
        path, old = shards / f"tensor_{at}.distcp", (shards / other.relative_path).read_bytes()
        path.write_bytes(old[other.offset : other.offset + other.length])
        other.relative_path, other.offset = path.name, 0
    (shards / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(ValueError, match=r"is not opened: .*weights_only"):
        read_description(shards)
    place.relative_path = "../elsewhere"
    (shards / ".metadata").write_bytes(pickle.dumps(description))
    with pytest.raises(ValueError, match="points to"):
        read_description(shards)
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


@pytest.mark.parametrize("name", [".lock", "trace.csv", "trace.png", "certificate.csv", "report.html"])
def test_a_link_in_the_run_of_a_stranger_leads_to_no_file_of_ours(tiny, tmp_path, name):
    train(tiny("trainer.max_epochs=1"))
    run, ours = tmp_path / "run", tmp_path / "ours"
    ours.write_text("precious")
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(ours)
    command = {".lock": ["train", "--resume", "--out"], "certificate.csv": ["certify"], "report.html": ["report"]}
    status = main([*command.get(name, ["trace"]), str(run)])
    assert status == (1 if name == ".lock" else 0)
    assert ours.read_text() == "precious"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x [1, 1]\nb: *x\n", "no anchors and aliases"),
        ("seed: 1\noptim: {lr: 0.1}\nseed: 2\n", "says 'seed' twice"),
        ("optim:\n  lr: 0.1\n  lr: 0.2\n", "says 'lr' twice"),
        ("optim: {<<: {lr: 0.1}, lr: 0.2}\n", "no merge keys; got '<<' at line 1"),
        ("a: " + "[" * 50 + "]" * 50, "nested more than 8 deep"),
        ("a: " + "[" * 100_000, "does not parse"),
        ("seed: " + "9" * 10_000, "does not parse"),
        ("# " + "x" * 300_000, "at most 262,144 bytes"),
        ("a: \x00", "does not parse"),
    ],
)
def test_a_config_cannot_be_a_bomb(tmp_path, text, words):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_config_file(tmp_path / "c.yaml")


def test_a_laughing_config_is_refused_at_once(tmp_path):
    """Nine levels of nine aliases each: 400 million nodes if they were followed."""
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(ValueError, match="no anchors and aliases"):
        read_config_file(tmp_path / "c.yaml")


def test_a_toml_config_has_bounds_too(tmp_path):
    for text in ("a = " + "[" * 5000 + "]" * 5000, "seed = 1\nseed = 2\n"):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(ValueError, match="does not parse"):
            read_config_file(tmp_path / "c.toml")


def test_only_ordinary_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "c.yaml")  # reading it would wait for ever
    for path in (tmp_path / "c.yaml", tmp_path):
        with pytest.raises(ValueError, match=r"ordinary file|must end in"):
            read_config_file(path)
    (tmp_path / "latin.yaml").write_bytes(b"out: caf\xe9\n")
    with pytest.raises(ValueError, match="must be UTF-8"):
        read_config_file(tmp_path / "latin.yaml")


def test_a_thin_image_asks_for_no_more_memory_than_any_other(tmp_path):
    """Brought to 224 before it is cropped, one row of 60,000 pixels would be 9 GB."""
    Image.fromarray(np.zeros((1, 60_000, 3), np.uint8)).save(tmp_path / "thin.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode(open_path(tmp_path / "thin.png"), 224).shape == (3, 224, 224)
    assert read_image(tmp_path / "thin.png", channels=1, size=(224, 96)).shape == (1, 224, 96)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_an_image_is_bounded_by_its_pixels(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 100_000
    with pytest.raises(ValueError, match="no readable image"):
        read_image(tmp_path / "large.png", channels=1, size=(8, 8))


@pytest.mark.parametrize("promised", [2**31, 1000])
def test_a_gzip_file_unpacks_to_what_its_header_promises_and_no_further(tmp_path, promised):
    with gzip.open(tmp_path / "bomb.gz", "wb", compresslevel=9) as file:
        file.write(struct.pack(">HBBI", 0, 8, 1, promised))
        for _ in range(64):
            file.write(bytes(2**22))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"promises (2,147,483,648 bytes|1000 values and holds 1001 bytes or more)"):
        read_idx(tmp_path / "bomb.gz")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depth": 10_000_000}, "model.depth must be at most 1024"),
        ({"dim": 10**9, "head_dim": 10**9}, "model.dim must be at most 65536"),
        ({"image_size": 10**6, "patch_size": 10**6}, "model.image_size must be at most 4096"),
        ({"depth": 1024, "dim": 65536, "heads": 4096, "head_dim": 65536}, "GiB; this machine has"),
        ({"depth": "many"}, "depth"),
    ],
)
def test_a_model_is_bounded_before_any_of_it_is_made(options, words):
    with pytest.raises((ValueError, TypeError), match=words):
        check_size("crate_micro", options)


def test_the_bound_leaves_the_models_there_are(tiny):
    check_size("crate_alpha_large", {"image_size": 224})
    spec = load_data(DataConfig(name="mixture", samples=20)).spec
    with pytest.raises(ValueError, match="at most 1024"):
        initial_model(ModelSection(overrides={"depth": 5000}), spec, seed=0)


def test_a_config_that_asks_for_too_much_data_is_refused():
    with pytest.raises(ValueError, match="2\\^29 numbers"):
        resolve({"data": {"name": "mixture", "samples": 10**7, "tokens": 2**16}})


def test_a_model_in_a_folder_whose_name_is_no_utf_8_is_read(tmp_path):
    model, folder = create_model("crate_micro", depth=1), tmp_path / os.fsdecode(b"run \xff")
    model.save_pretrained(folder)
    found = load_model(folder).state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
