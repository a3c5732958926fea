"""Models in folders: weights as safetensors and the config as JSON, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from srr.nn.adapt import load_adapted
from srr.nn.config import Config
from srr.nn.hub import download, upload

__all__ = ["PretrainedModel"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


class PretrainedModel(nn.Module):
    """Base of the models: saved to and read from a local folder or the Hugging Face Hub.

    Example:
        >>> import tempfile
        >>> from srr.nn import CRATE, create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     create_model("crate_micro").save_pretrained(folder)
        ...     model = CRATE.from_pretrained(folder)
        >>> model.config.dim
        64
    """

    config: Config
    config_type: ClassVar[type[Config]] = Config

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> str | None:
        """Write ``model.safetensors`` and ``config.json``, each under another name first and then renamed.

        Args:
            folder: created when absent; files of an earlier save are replaced.
            repo_id: repository of the Hub to upload to; the name of the folder when None.
            push_to_hub: whether to upload the model as well.
            **hub: options of :meth:`push_to_hub`.

        Returns:
            Address of the commit when the model was uploaded, None otherwise.

        Raises:
            OSError: the folder cannot be written.
            TypeError: options of an upload without ``push_to_hub=True``.
        """
        if (hub or repo_id) and not push_to_hub:
            raise TypeError(f"{sorted(hub) or ['repo_id']} can be used only with push_to_hub=True")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with published(folder / WEIGHTS_FILE) as draft:
            save_file(tensors, draft, metadata={"format": "pt"})
        with published(folder / CONFIG_FILE) as draft:
            draft.write_text(self.describe())
        return self.push_to_hub(repo_id or folder.resolve().name, **hub) if push_to_hub else None

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the saved files to a repository of the Hugging Face Hub in one commit.

        Args:
            repo_id: ``owner/name``, created when absent.
            **options: keywords of the Hub's own mixin: ``commit_message``, ``private``, ``token``, ``branch``,
                ``create_pr``, ``allow_patterns``, ``ignore_patterns``, ``delete_patterns``.

        Returns:
            Address of the commit.

        Raises:
            ImportError: ``huggingface_hub`` is not installed.
        """
        return upload(self.save_pretrained, repo_id, **options)

    def describe(self) -> str:
        """Text of ``config.json``: the class of the model and its config."""
        return json.dumps({"model": type(self).__name__, **json.loads(self.config.to_json())}, indent=2) + "\n"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> Self:
        """Model from a folder, or from a repository of the Hub when there is no such folder.

        Args:
            source: a local folder, the folder of a training run, or ``owner/name`` on the Hub.
            revision: branch, tag or commit of the repository; None is ``main``.
            token: access token; None takes the one of ``hf auth login``.
            cache_dir: folder of the Hub's cache; None takes its own.
            force_download: download even what the cache holds.
            local_files_only: look into the cache only.
            **overrides: fields of the config to change. For another ``image_size`` or ``patch_size`` grid
                the learned positions are interpolated; for another ``num_classes`` the head starts afresh,
                with a warning.

        Returns:
            The model, in evaluation mode, on the CPU.

        Raises:
            FileNotFoundError: the folder lacks one of the two files, or neither Hub nor cache has the repository.
            ValueError: a damaged file, a config of another class, weights that do not fit.
        """
        folder = local_folder(
            source,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        values = read_config(folder)
        if (kind := values.pop("model", cls.__name__)) != cls.__name__:
            raise ValueError(f"{folder / CONFIG_FILE} describes a {kind}; wanted a {cls.__name__}")
        saved = cls.config_type.from_dict(values)
        model = cls(saved.override(**overrides))
        load_adapted(model, read_weights(folder), grid=getattr(saved, "grid", None))
        return model.eval()


@contextlib.contextmanager
def published(final: Path) -> Iterator[Path]:
    """Name to write a file under; it gets its own once it is complete and on the disk, and goes away otherwise."""
    draft = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        yield draft
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(final)
    except SafetensorError as error:
        raise OSError(f"{final} cannot be written: {error}") from error
    finally:
        draft.unlink(missing_ok=True)


def local_folder(source: str | os.PathLike[str], **hub: Any) -> Path:
    """The folder itself, its ``model`` folder when it is a training run, or a cached copy of a Hub repository.

    Args:
        source: a folder, or ``owner/name`` on the Hub.
        **hub: options of :func:`srr.nn.hub.download`.
    """
    folder = Path(source)
    if (folder / "model" / CONFIG_FILE).is_file():
        return folder / "model"
    if folder.exists() or not isinstance(source, str) or source.count("/") != 1 or source[0] in "./~":
        return folder
    return download(source, files=[CONFIG_FILE, WEIGHTS_FILE], **hub)


def read_config(folder: Path) -> dict[str, Any]:
    """Parsed ``config.json`` of a folder."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no saved model: it has no {CONFIG_FILE}")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no table of options")
    return values


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Tensors of ``model.safetensors``; nothing in such a file can be executed."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no saved model: it has no {WEIGHTS_FILE}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
