"""Small systems to inspect."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from speechllm_tools.cli import main
from speechllm_tools.inspect.facts import Facts

from speechllm_plugin.models.speech_llm.config import CtcConfig, PartSection, SpeechLlmConfig, arch_config

Inspect = Callable[..., Facts]


def unpadded(adapter: str) -> SpeechLlmConfig:
    """50 frames for each second: an adapter runs for real, and 1500 would take it seconds."""
    config = arch_config(f"whisper_tiny_en.smollm2_135m.{adapter}")
    config.encoder.config["pad_to_30s"] = False  # type: ignore[index]
    return config


def small(tiny_config: SpeechLlmConfig, adapter: str, **options: object) -> SpeechLlmConfig:
    sizes = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.1}
    values: dict[str, object] = {"stack": 3, "hidden_dim": 48} if adapter == "mlp" else dict(sizes)
    values.update(options)
    tiny_config.adapter = PartSection(name=adapter, config=values)
    tiny_config.ctc = CtcConfig(weight=0.1 if adapter in ("cif", "ctc") else 0.0)
    return tiny_config


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main(["inspect", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, out, err
