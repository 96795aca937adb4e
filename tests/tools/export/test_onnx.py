"""`speechllm export --format onnx`: ONNX Runtime computes what PyTorch does, for any batch and lengths."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from speechllm_tools.cli import main

from speechllm_plugin import load_speech_llm
from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.encoders.w2v_bert import W2vBertConfig, create_w2v_bert
from speechllm_plugin.encoders.wav2vec2 import Wav2Vec2Config, create_wav2vec2
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.pretrained import freeze
from tests.plugin.encoder_families import save_encoder

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

SIZES = {"dim": 16, "num_heads": 2, "ffn_dim": 32}
ONE_LAYER = {"layers_before": 1, "layers_after": 1}
ADAPTER_CONFIGS = {
    "base": {"num_layers": 1, **SIZES}, "cif": {**ONE_LAYER, **SIZES}, "conv": {**ONE_LAYER, **SIZES},
    "ctc": {**ONE_LAYER, **SIZES}, "mlp": {"stack": 3, "hidden_dim": 16}, "subsample": {"num_layers": 1, **SIZES},
    "wlq_former": {"num_layers": 1, **SIZES},
}  # fmt: skip


def test_every_adapter_is_tried() -> None:
    assert set(ADAPTER_CONFIGS) == set(ADAPTERS.names()) - set(ADAPTERS.foreign_names())


@pytest.mark.parametrize("name", ADAPTER_CONFIGS)
def test_adapters(tiny_config: SpeechLlmConfig, tmp_path: Path, name: str) -> None:
    from speechllm_tools.export.graphs import AdapterGraph
    from speechllm_tools.export.onnx_files import Graph, Inputs, compare, write_onnx

    tiny_config.adapter = PartSection(name=name, config=ADAPTER_CONFIGS[name])
    tiny_config.frame_stack = 2
    tiny_config.ctc = CtcConfig(weight=0.1, classifier="llm_embedding") if name == "ctc" else CtcConfig(weight=0.0)
    torch.manual_seed(0)
    system = create_speech_llm(tiny_config).eval()
    if name == "ctc":
        system.ctc.set_vocabulary(range(6, 12))  # type: ignore[union-attr,operator]

    def batch(*lengths: int) -> Inputs:
        return 3 * torch.randn(len(lengths), max(lengths), 32), torch.tensor(lengths)

    file = tmp_path / "adapter.onnx"
    names = ("features", "feature_lengths"), ("embeddings", "embedding_lengths")
    graph = Graph(AdapterGraph(system), *names, batch(40, 31, 7), name)
    write_onnx(graph, file)
    assert compare(graph, file, [batch(1), batch(5), batch(70, 3, 1, 57), batch(33, 60)]) < 1e-4
    # Another graph than the file's is told.
    with torch.no_grad():
        next(reversed(list(system.adapter.parameters()))).add_(0.01)
    with pytest.raises(UserError, match=rf"^{name} \(for a batch of 2 x 9 ONNX Runtime"):
        compare(graph, file, [batch(9, 4)])


# Those that go row by row outside a graph; others have the layers of these.
@pytest.mark.parametrize("family", ["hubert", "w2v_bert"])
def test_encoders(tmp_path: Path, family: str) -> None:
    from speechllm_tools.export.graphs import EncoderGraph
    from speechllm_tools.export.onnx_files import Graph, Inputs, compare, write_onnx

    save_encoder(family, tmp_path / family, sharded=False)
    config, create = {"hubert": (Wav2Vec2Config, create_wav2vec2), "w2v_bert": (W2vBertConfig, create_w2v_bert)}[family]
    encoder = freeze(create(config(path=str(tmp_path / family), dtype="float32")))  # type: ignore[operator]

    def batch(*seconds: float) -> Inputs:
        lengths = torch.tensor([round(16000 * length) for length in seconds])
        inside = torch.arange(int(lengths.max())) < lengths.unsqueeze(1)
        return 0.1 * torch.randn(inside.shape) * inside, lengths

    file = tmp_path / "encoder.onnx"
    names = ("waveforms", "lengths"), ("features", "feature_lengths")
    graph = Graph(EncoderGraph(encoder), *names, batch(2.03, 1.4, 0.6), family)
    write_onnx(graph, file)
    # Clips shorter than a frame, and more of them than a loop over rows would take at a time.
    assert compare(graph, file, [batch(0.02), batch(0.02, 3.1, 0.4), batch(*[1.0] * 11)]) < 1e-5


def test_the_command_writes_what_the_system_computes(
    tuned: Path, clips: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", str(tuned), str(out), "--format", "onnx"]) == 0
    assert "encoder.onnx within" in capsys.readouterr().err
    assert {file.name for file in out.iterdir()} == {"encoder.onnx", "adapter.onnx", "system.json"}
    system = load_speech_llm(tuned, device="cpu")
    model = system.model
    for chosen in ([0], [1, 2, 3]):
        lengths = np.array([len(clips[number]) for number in chosen])
        waveforms = np.stack([np.pad(clips[number], (0, lengths.max() - len(clips[number]))) for number in chosen])
        encoder, adapter = (
            onnxruntime.InferenceSession(out / f"{name}.onnx", providers=["CPUExecutionProvider"])
            for name in ("encoder", "adapter")
        )
        features = encoder.run(None, {"waveforms": waveforms, "lengths": lengths})
        found = adapter.run(None, dict(zip(("features", "feature_lengths"), features, strict=True)))
        batch, config = system.read([clips[number] for number in chosen], "en", None), DecodingConfig(extra_tokens=20)
        with torch.inference_mode():
            expected = model.listen(batch)
            exported = replace(expected, seqs=torch.from_numpy(found[0]), lengths=torch.from_numpy(found[1]))
            own, others = (model.decode(batch, speech, config)[1] for speech in (expected, exported))
        assert found[1].tolist() == expected.lengths.tolist()
        torch.testing.assert_close(torch.from_numpy(found[0]), expected.seqs, atol=1e-4, rtol=1e-4)
        assert [row.tokens for row in others] == [row.tokens for row in own] and len(own[-1].tokens) > 5
    description = json.loads((out / "system.json").read_text())
    prompt = model.prompts.render("en", "en")
    assert description["prompt"] == {"before": list(prompt.before), "after": list(prompt.after)}
