"""Models as graphs that run without this package: ONNX, and torch's own exported programs, for any batch."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from srr._array.checks import check_positive
from srr._array.extras import need
from srr._array.files import write_atomically
from srr.nn.network import pair
from srr.nn.pretrained import PretrainedModel
from srr.nn.probe import evaluating

__all__ = ["export_model"]

ANY_BATCH = ({0: Dim("batch")},)
KINDS = (".onnx", ".pt2")
LARGEST = 2**31
"""Bytes that a protocol buffer cannot reach."""
Graph = tuple[bytes, Callable[[Tensor], Tensor]]
FAILURES = (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError)
"""What torch raises where it cannot trace or translate."""
CHECKED = (1, 3)
"""Sizes of the batches on which the graph is compared with the model; it is traced on two."""


def export_model(
    model: PretrainedModel,
    path: str | os.PathLike[str],
    *,
    tol: float = 1e-4,
) -> float:
    """Write a model as a graph for batches of any size, after a check that the graph gives what the model gives.

    Input and output are called ``input`` and ``output``; the first axis of both is the dynamic dimension ``batch``. An
    ONNX file is run by onnxruntime for the check, a ``.pt2`` file is read with ``torch.export.load(path).module()``.
    Names of the classes, mean and deviation of a model that has its :class:`srr.nn.Preprocessing` are kept as JSON in
    the metadata ``preprocessing`` of the file; the graph itself takes what is normalized already.

    Args:
        model: a model of :mod:`srr.nn`; the graph of a language model reads exactly ``context`` symbols.
        path: file that ends in ``.onnx`` or ``.pt2``; one that exists is replaced.
        tol: largest difference allowed, in units of the largest output or of one.

    Returns:
        The largest difference seen, in those units.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        ValueError: another suffix, a model that cannot be traced or has an operation that ONNX lacks, or a graph that
            differs: one sentence. No file is left.

    Example:
        >>> import tempfile
        >>> from srr.nn import create_model
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     error = export_model(create_model("crate_micro", depth=1), folder + "/model.pt2")
        >>> error < 1e-5
        True
    """
    path, tol = Path(path), check_positive(tol, "tol")
    if path.suffix not in KINDS:
        raise ValueError(f"path must end in one of {KINDS}; got {path.name!r}")
    if path.suffix == ".onnx":
        need("onnx", "onnxscript", "onnxruntime", by="an ONNX file")
    known = model.preprocessing
    text = {} if known is None else {"preprocessing": json.dumps(asdict(known))}
    with evaluating(model), quiet():
        data, run = (to_onnx if path.suffix == ".onnx" else to_program)(traced(model), model, text)
        batches = (example_inputs(model, size) for size in CHECKED)
        error = max(difference(run(x), model(x)) for x in batches)
    if not error <= tol:  # a NaN is no agreement
        raise ValueError(f"the graph differs from the model by {error:.1e} of its outputs; wanted at most {tol:g}")
    write_atomically(path, lambda file: file.write(data))
    return error


def example_inputs(model: PretrainedModel, batch: int) -> Tensor:
    """Images or symbols that a model takes, drawn from a fixed seed."""
    generator, config = torch.Generator().manual_seed(batch), cast("Any", model.config)
    place = next(model.parameters())
    if hasattr(config, "vocabulary"):
        return torch.randint(config.vocabulary, (batch, config.context), generator=generator).to(place.device)
    images = torch.randn(batch, config.channels, *pair(config.image_size), generator=generator)
    return images.to(place)


def traced(model: PretrainedModel) -> ExportedProgram:
    """The forward pass for any batch."""
    try:
        return torch.export.export(model, (example_inputs(model, 2),), dynamic_shapes=ANY_BATCH)
    except FAILURES as error:
        raise ValueError(f"{kind_of(model)} cannot be traced: {first_line(error)}") from error


def to_program(program: ExportedProgram, model: PretrainedModel, metadata: dict[str, str]) -> Graph:
    """Bytes of a ``.pt2`` file, and the program as a function."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=metadata)
    return buffer.getvalue(), program.module()


def to_onnx(program: ExportedProgram, model: PretrainedModel, metadata: dict[str, str]) -> Graph:
    """Bytes of an ONNX file, and the file as a function that onnxruntime runs on the CPU."""
    import onnxruntime

    try:
        options: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamic_shapes": ANY_BATCH}
        made = torch.onnx.export(program, dynamo=True, verbose=False, **options)
        assert made is not None  # a file is written where a path is given
        proto = made.model_proto
    except FAILURES as error:
        lacking = re.search(r"<OpOverload\(op='aten\.(\w+)'|torch\.ops\.aten\.(\w+)", str(error))
        why = first_line(error)
        if lacking:
            why = (
                f"its exporter has no translation of {lacking[1] or lacking[2]} as it stands here; a .pt2 file takes it"
            )
        raise ValueError(f"{kind_of(model)} cannot be written as ONNX: {why}") from error
    for name, value in metadata.items():
        proto.metadata_props.add(key=name, value=value)
    if proto.ByteSize() >= LARGEST:
        raise ValueError(f"an ONNX file holds less than {LARGEST:,} bytes; this model has {proto.ByteSize():,}")
    data = proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.as_tensor(session.run(None, {"input": x.cpu().numpy()})[0])

    return data, run


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest difference in units of the largest number wanted, or of one."""
    wanted = wanted.to(found)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1.0))


def kind_of(model: PretrainedModel) -> str:
    """What a model is, for a sentence."""
    return f"{type(model).__name__} with block={model.config.block!r}"


def first_line(error: BaseException) -> str:
    """First line of what went wrong."""
    return next((line for line in map(str.strip, str(error).splitlines()) if line), type(error).__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's words on torchvision, which is not needed, and on its own deprecated calls."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
