"""What is not installed: one sentence with the command that installs it."""

from __future__ import annotations

from importlib.util import find_spec

EXTRAS = {
    "torch": "torch",
    "safetensors": "torch",
    "sklearn": "learn",
    "lightning": "train",
    "msgspec": "train",
    "yaml": "train",
    "PIL": "train",
    "tokenizers": "train",
    "tensorboard": "train",
    "typer": "cli",
    "rich": "cli",
    "matplotlib": "plot",
    "mpmath": "verify",
    "sympy": "verify",
    "dask": "dask",
    "jax": "jax",
    "cupy": "cupy",
    "cupyx": "cupy",
    "huggingface_hub": "hub",
    "datasets": "hub",
    "onnx": "export",
    "onnxscript": "export",
    "onnxruntime": "export",
    "transformers": "hf",
}
"""The extra of this package that installs each optional module."""


def sentence(module: str, by: str) -> str:
    """What to say when ``by`` needs a module that is not there."""
    extra = EXTRAS.get(module.partition(".")[0])
    return f'{by} needs {module}: pip install "{module if extra is None else f"srr[{extra}]"}"'


def need(*modules: str, by: str) -> None:
    """Refuse to go on without some modules, before any of their names is used.

    Args:
        modules: names of top-level modules.
        by: what needs them, the subject of the sentence.

    Raises:
        ModuleNotFoundError: one is missing; the message is one sentence with the command that installs it.
    """
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(sentence(module, by), name=module)
