"""The Hugging Face Hub, never reached: the requests of its own mixin, its cache, and folders without the library."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from srr.nn import CRATE, create_model, load_model
from srr.nn.pretrained import upload

SMALL = {"depth": 1, "dim": 16, "heads": 4, "head_dim": 4}


class Recorder:
    """Stands for ``HfApi``: writes down the requests, and the files that would have been sent."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}

    def __call__(self, token: str | None = None) -> "Recorder":
        self.requests.append({"token": token})
        return self

    def create_repo(self, **request: Any) -> SimpleNamespace:
        self.requests.append(request)
        return SimpleNamespace(repo_id=request["repo_id"])

    def upload_folder(self, *, folder_path: str, **request: Any) -> str:
        self.requests.append(request)
        self.files = {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
        return "https://hub/commit"


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    hub = pytest.importorskip("huggingface_hub")
    recorder = Recorder()
    monkeypatch.setattr(hub, "HfApi", recorder)
    return recorder


OPTIONS = {
    "commit_message": "first weights",
    "private": True,
    "token": "secret",
    "branch": "trial",
    "create_pr": True,
    "allow_patterns": ["*.json"],
    "ignore_patterns": "*.txt",
    "delete_patterns": "*.bin",
}


@pytest.mark.parametrize("options", [{"commit_message": "first weights"}, OPTIONS])
def test_requests_are_those_of_the_hubs_mixin(
    options: dict[str, Any], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import ModelHubMixin, hub_mixin

    class Theirs(ModelHubMixin):
        def save_pretrained(self, folder: Path, **ignored: Any) -> None:
            Path(folder).mkdir(parents=True)

    theirs = Recorder()
    monkeypatch.setattr(hub_mixin, "HfApi", theirs)
    assert create_model("crate_micro", **SMALL).push_to_hub("someone/some-model", **options) == "https://hub/commit"
    Theirs().push_to_hub("someone/some-model", **options)
    assert recorder.requests == theirs.requests


@pytest.mark.parametrize(
    ("method", "left_out"),
    [
        ("from_pretrained", {"pretrained_model_name_or_path", "model_kwargs"}),
        ("push_to_hub", {"self", "config", "model_card_kwargs"}),
        ("save_pretrained", {"save_directory", "config", "model_card_kwargs", "push_to_hub_kwargs"}),
    ],
)
def test_keywords_are_those_of_the_hubs_mixin(method: str, left_out: set[str]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    theirs = set(inspect.signature(getattr(hub.ModelHubMixin, method)).parameters) - left_out
    ours = upload if method == "push_to_hub" else getattr(CRATE, method)
    assert theirs <= set(inspect.signature(ours).parameters)


def test_saving_can_upload_too(recorder: Recorder, tmp_path: Path) -> None:
    model = create_model("crate_micro", **SMALL)
    folder = tmp_path / "some-model"
    assert model.save_pretrained(folder) is None
    assert not recorder.requests
    assert model.save_pretrained(folder, push_to_hub=True, commit_message="more") == "https://hub/commit"
    assert recorder.requests[1]["repo_id"] == "some-model"
    assert recorder.files == {file.name: file.read_bytes() for file in folder.iterdir()}
    model.save_pretrained(folder, repo_id="someone/other", push_to_hub=True)
    assert recorder.requests[4]["repo_id"] == "someone/other"
    with pytest.raises(TypeError, match="only with push_to_hub=True"):
        model.save_pretrained(folder, commit_message="more")


def cached(cache: Path, repo_id: str, model: torch.nn.Module, revision: str = "main") -> None:
    """Lay a model into a cache folder as a download from the Hub leaves it there."""
    repository = cache / f"models--{repo_id.replace('/', '--')}"
    commit = revision.encode().hex().ljust(40, "0")[:40]
    model.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / revision).write_text(commit)


def test_a_downloaded_model_is_read(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    main, trial = create_model("crate_micro", **SMALL), create_model("crate_micro", **SMALL, image_size=16)
    cached(tmp_path, "someone/some-model", main)
    cached(tmp_path, "someone/some-model", trial, revision="trial")
    where = {"cache_dir": tmp_path, "local_files_only": True}
    read = CRATE.from_pretrained("someone/some-model", **where)
    assert torch.equal(read.head.linear.bias, main.head.linear.bias)
    assert load_model("someone/some-model", revision="trial", **where).config.image_size == 16


def sharded(folder: Path, model: torch.nn.Module) -> None:
    """Save a model as the Hub's own writer splits large ones: an index and several files."""
    hub = pytest.importorskip("huggingface_hub")
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    hub.save_torch_state_dict(model.state_dict(), folder, max_shard_size="2KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2


@pytest.mark.parametrize("split", [False, True])
def test_a_run_begins_from_the_hub_and_from_weights_in_several_files(
    split: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    from srr.training.config import resolve
    from srr.training.start import begun_from, load_weights

    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))  # as HF_HOME and HF_HUB_OFFLINE=1 at start
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    wanted = create_model("crate_micro", **SMALL)
    cached(tmp_path, "someone/some-model", wanted)
    (folder,) = (tmp_path / "models--someone--some-model" / "snapshots").iterdir()
    if split:
        sharded(folder, wanted)
    for source in ("someone/some-model", str(folder)):
        config = begun_from(resolve({"data": {"name": "digits"}, "model": {"pretrained": source}}))
        assert config.model.overrides["dim"] == SMALL["dim"]
        model = create_model(config.model.preset, **config.model.overrides)
        assert not torch.equal(model.head.linear.weight, wanted.head.linear.weight)
        load_weights(model, source)
        for name, tensor in wanted.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


def test_an_index_that_is_not_of_these_files_is_refused(tmp_path: Path) -> None:
    sharded(tmp_path, create_model("crate_micro", **SMALL))
    index = tmp_path / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    first = min(whole["weight_map"])
    for name, words in (
        ("../model.safetensors", "no file of weights beside it"),
        (3, "is damaged"),
        ("model-gone.safetensors", "names model-gone.safetensors, which is not there"),
    ):
        index.write_text(json.dumps({"weight_map": whole["weight_map"] | {first: name}}))
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            load_model(tmp_path)
    index.write_text(json.dumps({"weight_map": whole["weight_map"] | {"more": whole["weight_map"][first]}}))
    with pytest.raises(ValueError, match="differ in more"):
        load_model(tmp_path)
    index.write_text("[1")
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        load_model(tmp_path)


@pytest.mark.parametrize("options", [{"local_files_only": True}, {"revision": "nowhere", "local_files_only": True}])
def test_a_model_that_is_nowhere_is_one_sentence(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    with pytest.raises(FileNotFoundError, match="no folder someone/some-model, and the Hub gave none") as caught:
        CRATE.from_pretrained("someone/some-model", cache_dir=tmp_path, **options)
    assert "\n" not in str(caught.value)


def run(script: str, **environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


WITHOUT = """
import sys, tempfile
sys.modules["huggingface_hub"] = None
from srr.nn import CRATE, create_model, load_model
model = create_model("crate_micro", depth=1)
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    assert CRATE.from_pretrained(folder, image_size=16).config.image_size == 16
    assert load_model(folder).config == model.config
for call, error in ((load_model, FileNotFoundError), (model.push_to_hub, ImportError)):
    try:
        call("someone/some-model")
    except error as sentence:
        assert "huggingface_hub" in str(sentence) and "\\n" not in str(sentence), sentence
    else:
        raise SystemExit("no error")
"""


def test_folders_need_no_library() -> None:
    run(WITHOUT)


def test_the_library_is_imported_by_the_call_only() -> None:
    run("import sys, srr.nn; assert 'huggingface_hub' not in sys.modules")


def test_offline_is_obeyed(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    cached(tmp_path, "someone/some-model", create_model("crate_micro", **SMALL))
    script = "from srr.nn import load_model; assert load_model('someone/some-model').config.dim == 16"
    run(script, HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path))
