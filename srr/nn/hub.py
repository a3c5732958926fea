"""Files to and from the Hugging Face Hub, with the keywords of its mixin; the library is imported only in a call.

``huggingface_hub.ModelHubMixin`` is not a base class here. Importing it took 0.36 s beside the 0.09 s of ``srr.nn``,
its ``save_pretrained`` removes the ``config.json`` of the last save before the new one is written, and its
``from_pretrained`` reads files before the model can check them. The keywords and the requests to the Hub are the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["HUB_OPTIONS", "download", "upload"]

HUB_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")

Patterns = list[str] | str | None


def upload(
    save: Callable[[str], object],
    repo_id: str,
    *,
    commit_message: str = "Upload model",
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    delete_patterns: Patterns = None,
) -> str:
    """Upload what ``save`` writes into an empty folder, in one commit.

    Args:
        save: writes the files into a folder.
        repo_id: ``owner/name``, created when absent.
        commit_message: message of the commit.
        private: whether a created repository is private; None takes the owner's default.
        token: access token; None takes the one of ``hf auth login``.
        branch: branch to commit to; None is ``main``.
        create_pr: whether to open a pull request with the commit.
        allow_patterns: files to upload, all when None.
        ignore_patterns: files not to upload.
        delete_patterns: files of the repository to delete in the same commit.

    Returns:
        Address of the commit.

    Raises:
        ImportError: ``huggingface_hub`` is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ImportError('push_to_hub needs huggingface_hub: pip install "srr[hub]"') from error
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id
    with TemporaryDirectory() as folder:
        save(folder)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            delete_patterns=delete_patterns,
        )
    return str(commit)


def download(
    repo_id: str,
    *,
    files: list[str],
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Folder of the Hub's cache that holds some files of a repository.

    Args:
        repo_id: ``owner/name``.
        files: names or patterns of the wanted files.
        revision: branch, tag or commit; None is ``main``.
        token: access token; None takes the one of ``hf auth login``.
        cache_dir: folder of the cache; None takes the Hub's own.
        force_download: download even what the cache holds.
        local_files_only: look into the cache only.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: ``huggingface_hub`` is not installed, or neither Hub nor cache has the repository.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise FileNotFoundError(f"there is no folder {repo_id}, and huggingface_hub is not installed") from error
    try:
        folder = snapshot_download(
            repo_id,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            force_download=force_download,
            local_files_only=local_files_only,
            allow_patterns=files,
        )
    except OSError as error:  # the errors of the Hub and of its cache are kinds of it
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise FileNotFoundError(f"there is no folder {repo_id}, and the Hub gave none: {reason}") from error
    return Path(folder)
