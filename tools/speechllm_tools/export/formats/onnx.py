"""`onnx`: encoder and adapter as two files for ONNX Runtime, checked with it.

There are two files since many adapters share the features of one frozen encoder, whose file is a hundred times as
large.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from speechllm_plugin.errors import UserError
from speechllm_tools.export.api import Format

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.model import SpeechLlm
    from speechllm_tools.export.onnx_files import Graph, Inputs

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
SHORTEST, LONGEST = 0.02, 4.0
"""Seconds of the clips that are compared."""
MANY = 9
"""Clips in the largest batch that is compared: more than any encoder computes at a time."""


class OnnxFormat(Format):
    summary = "encoder.onnx and adapter.onnx, compared with PyTorch by ONNX Runtime"

    def check(self) -> None:
        if absent := [name for name in PACKAGES if find_spec(name) is None]:
            raise UserError(
                f"--format: found 'onnx', which needs {', '.join(absent)}, not installed: "
                "pip install 'speechllm-plugin[export]'"
            )

    def write(self, folder: Path) -> str:
        from speechllm_plugin.models.speech_llm.checkpoint import load_model
        from speechllm_tools.export.onnx_files import compare, write_onnx

        # Graphs are in float32, since ONNX Runtime multiplies bfloat16 on few devices.
        overrides = {"encoder.config.dtype": "float32", **self.export.overrides}
        system = load_model(self.export.checkpoint, device="cpu", overrides=overrides)
        lines = []
        for name, graph, batches in _graphs(system):
            file = folder / f"{name}.onnx"
            write_onnx(graph, file)
            lines.append(f"{file.name} within {compare(graph, file, batches):.0e} of PyTorch")
        (folder / "system.json").write_text(json.dumps(_description(system), indent=2) + "\n")
        return ", ".join(lines)


def _graphs(system: SpeechLlm) -> list[tuple[str, Graph, list[Inputs]]]:
    """The name of each file, its graph, and the inputs for the comparison: a clip alone, and batches of other lengths
    than the traced one, the shortest with a single vector."""
    import torch

    from speechllm_plugin.datasets.audio import SAMPLE_RATE
    from speechllm_tools.export.graphs import AdapterGraph, EncoderGraph
    from speechllm_tools.export.onnx_files import Graph

    generator = torch.Generator().manual_seed(0)

    def clips(*seconds: float) -> Inputs:
        lengths = torch.tensor([max(1, round(SAMPLE_RATE * length)) for length in seconds])
        waveforms = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
        return waveforms * (torch.arange(waveforms.size(1)) < lengths.unsqueeze(1)), lengths

    def tones(*hertz: float) -> Inputs:
        """Clips with silent bands, which noise does not have, and where ONNX Runtime's own Fourier transform errs
        most."""
        steps = torch.arange(round(SAMPLE_RATE * 1.1)) / SAMPLE_RATE
        waveforms = torch.stack([0.3 * torch.sin(2 * torch.pi * frequency * steps) for frequency in hertz])
        return waveforms, torch.full((len(hertz),), len(steps))

    def drawn(count: int) -> list[float]:
        return (SHORTEST + (LONGEST - SHORTEST) * torch.rand(count, generator=generator)).tolist()

    encoder = EncoderGraph(system.encoder)
    waveforms = [
        clips(2.03, 1.4, 0.6), clips(*drawn(1)), clips(SHORTEST), clips(SHORTEST, *drawn(4)), clips(*drawn(2)),
        tones(440.0, 3000.0), clips(*[0.2] * MANY),
    ]  # fmt: skip
    with torch.no_grad():
        features = [encoder(*batch) for batch in waveforms]
    # A clip of one frame, which some encoders cannot give.
    features.append((features[0][0][:1, :1].clone(), torch.ones(1, dtype=torch.long)))
    kinds = system.config.encoder.name, system.config.adapter.name
    return [
        ("encoder", Graph(encoder, ("waveforms", "lengths"), ("features", "feature_lengths"), waveforms[0],
                          f"encoder.name: found {kinds[0]!r}, which cannot be exported to ONNX"), waveforms[1:]),
        ("adapter", Graph(AdapterGraph(system), ("features", "feature_lengths"), ("embeddings", "embedding_lengths"),
                          features[0], f"adapter.name: found {kinds[1]!r}, which cannot be exported to ONNX"),
         features[1:]),
    ]  # fmt: skip


def _description(system: SpeechLlm) -> dict[str, object]:
    """The values that a program needs beside the graphs to call the LLM."""
    from speechllm_plugin.datasets.audio import SAMPLE_RATE

    prompt = system.prompts.render("en", "en")
    llm = system.config.llm
    return {
        "sample_rate": SAMPLE_RATE,
        "max_seconds": system.encoder.max_seconds,
        "llm": {"path": getattr(llm.config, "path", None), "weights": llm.weights, "dim": system.llm.dim},
        "prompt": {"before": list(prompt.before), "after": list(prompt.after)},
        "end_of_turn": system.prompts.end_of_turn,
    }


FORMAT = OnnxFormat
