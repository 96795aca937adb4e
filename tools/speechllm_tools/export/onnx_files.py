"""Writes a graph as an ONNX file, and compares ONNX Runtime's results for the file with PyTorch's."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from speechllm_plugin.errors import UserError

TOLERANCE = 1e-4
"""Largest difference, as a share of the largest value where that is above 1."""
ONE_FILE = 2**30
"""Most bytes of weights inside the file itself: protobuf's limit is twice as large."""

Inputs = tuple[Tensor, Tensor]
"""Rows, `[B, T]` or `[B, T, C]`, and their lengths, `[B]`."""


@dataclass(frozen=True)
class Graph:
    """A module that becomes one file."""

    module: nn.Module
    """The module, which turns rows and lengths into others."""
    inputs: tuple[str, str]
    outputs: tuple[str, str]
    example: Inputs
    """Inputs for the trace; the sizes of batch and rows differ from all its other sizes."""
    refusal: str
    """Beginning of the error for a graph that cannot be written."""


def write_onnx(graph: Graph, file: Path) -> None:
    """
    :raises UserError: ONNX cannot express the graph.
    """
    size = sum(weight.nbytes for weight in [*graph.module.parameters(), *graph.module.buffers()])
    dynamic = torch.export.Dim.DYNAMIC
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                graph.module.eval(), graph.example, dynamo=True, input_names=graph.inputs, output_names=graph.outputs,
                dynamic_shapes=({0: dynamic, 1: dynamic}, {0: dynamic}), verbose=False,
            )
            assert program is not None
            program.save(file, external_data=size > ONE_FILE)
    except torch.onnx.errors.OnnxExporterError as error:
        causes = [error.__cause__ or error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        reason = str(causes[-1]).strip().partition("\n")[0]
        raise UserError(f"{graph.refusal} ({reason})") from error


def compare(graph: Graph, file: Path, batches: Sequence[Inputs]) -> float:
    """
    :param batches: inputs of other sizes than the example's.
    :returns: the largest difference.
    :raises UserError: ONNX Runtime does not load the file, or computes something else.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has many classes of errors
        raise UserError(f"{graph.refusal} (ONNX Runtime: {' '.join(str(error).split())[:200]})") from error
    names = [value.name for value in session.get_inputs()], [value.name for value in session.get_outputs()]
    if names != (list(graph.inputs), list(graph.outputs)):
        raise UserError(f"{graph.refusal} (found the names {names}, expected {graph.inputs} and {graph.outputs})")
    worst = 0.0
    for rows, lengths in batches:
        with torch.no_grad():
            expected, expected_lengths = graph.module(rows, lengths)
        found, found_lengths = session.run(None, dict(zip(graph.inputs, (rows.numpy(), lengths.numpy()), strict=True)))
        sizes = f"a batch of {len(rows)} x {rows.size(1)}"
        if found_lengths.tolist() != expected_lengths.tolist() or found.shape != tuple(expected.shape):
            raise UserError(
                f"{graph.refusal} (for {sizes} ONNX Runtime gives lengths {found_lengths.tolist()} and the shape "
                f"{list(found.shape)}, PyTorch {expected_lengths.tolist()} and {list(expected.shape)})"
            )
        difference = float((torch.from_numpy(found) - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        if not difference <= TOLERANCE:
            raise UserError(
                f"{graph.refusal} (for {sizes} ONNX Runtime and PyTorch differ by {difference:.1e}, expected at most "
                f"{TOLERANCE:g})"
            )
        worst = max(worst, difference)
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's messages about its progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
