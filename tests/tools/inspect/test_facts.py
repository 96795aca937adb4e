"""Sizes, rates and skeletons: the published ones, and those of the real system."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from speechllm_tools.inspect.command import _published
from speechllm_tools.inspect.facts import CLIPS
from speechllm_tools.inspect.published import RATES, SIZES
from speechllm_tools.inspect.report import describe, table

from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.config import GRID, SpeechLlmConfig, arch_config
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.tensors.masks import stack_frames
from speechllm_plugin.tensors.parameters import count_parameters
from tests.tools.inspect.systems import Inspect, small, unpadded

ADAPTERS = ("base", "conv", "cif", "ctc", "wlq_former", "subsample", "mlp")


@pytest.mark.parametrize("adapter", GRID[2])
def test_sizes_are_the_published_ones(inspect: Inspect, adapter: str) -> None:
    """Table II, at Mistral's vocabulary."""
    facts = inspect(f"seamless_m4t_v2.mistral_7b.{adapter}")
    published = SIZES[adapter]
    assert facts.size is not None
    if adapter == "wlq_former":
        assert facts.size.length is published.length is None
        assert facts.size.modality == pytest.approx(published.modality, abs=0.05)
    else:
        assert round(facts.size.modality, 2) == published.modality
        # 2 x (768 x 768 x 3 + 768) and two LayerNorms of 2 x 768: not the published 25.20.
        expected = 3.543552 if adapter == "conv" else published.length
        assert round(facts.size.length, 6 if adapter == "conv" else 2) == expected  # type: ignore[arg-type]
    if adapter == "conv":
        text = describe(facts)
        assert "matches no two stride-2 convolutions" in text and "25.20" in text and "3.54" in text


@pytest.mark.parametrize("adapter", ["base", "conv", "wlq_former"])
@pytest.mark.parametrize("encoder", GRID[0])
def test_fixed_rates_are_the_published_ones(inspect: Inspect, encoder: str, adapter: str) -> None:
    """Table I."""
    facts = inspect(f"{encoder}.llama32_1b.{adapter}", clips=(30.0,))
    rate = RATES[encoder][adapter]
    assert not facts.content_dependent and facts.rate == rate
    assert round(facts.clips[0].compression) == rate.compression
    assert facts.clips[0].hertz == pytest.approx(rate.hertz, abs=0.05)


@pytest.mark.parametrize("adapter", ["cif", "ctc"])
def test_rates_that_depend_on_the_content_are_said_to_be_assumed(inspect: Inspect, adapter: str) -> None:
    facts = inspect(unpadded(adapter), clips=(1.0, 30.0))
    assert facts.content_dependent and facts.rate is None
    assert [clip.vectors for clip in facts.clips] == ([2, 60] if adapter == "cif" else [4, 116])
    # In training CIF gives a vector for each token of the transcript.
    assert facts.clip.vectors == 8
    text = describe(facts)
    assert "depends on what is said; assumed is the rate published for whisper_large_v3" in text
    assert "about 8 vectors" in text and "published (table I):" not in text
    assert facts.as_json()["output"]["assumed_from"] == "whisper_large_v3"


@pytest.mark.parametrize(
    ("adapter", "setting", "rate"),
    [
        ("ctc", {}, "2:1, 3.12 Hz"),
        ("ctc", {"layers_before": 1}, None),
        ("wlq_former", {}, "2:1, 3.12 Hz"),
        ("wlq_former", {"num_queries": 2}, None),
        ("conv", {"stride": 4}, None),
    ],
)
def test_rates_are_called_published_for_the_published_settings_alone(
    inspect: Inspect, adapter: str, setting: dict[str, int], rate: str | None
) -> None:
    config = arch_config(f"seamless_m4t_v2.smollm2_135m.{adapter}")
    config.adapter.config = setting
    text = describe(inspect(config))
    assert (f"published (table I): {rate}" in text) if rate else ("published (table I):" not in text)
    assert ("these are the published rates" in text) == (adapter == "ctc" and rate is not None)
    assert ("assumed is the rate published for seamless_m4t_v2" in text) == (adapter == "ctc" and rate is None)


def test_an_encoder_that_pads_gives_as_many_frames_for_any_clip(inspect: Inspect) -> None:
    config = arch_config("whisper_tiny_en.smollm2_135m.mlp")
    facts = inspect(config, clips=CLIPS)
    assert [(clip.frames, clip.vectors) for clip in facts.clips] == [(1500, 300)] * 4
    assert [clip.hertz for clip in facts.clips] == [300, 60, 20, 10]
    assert "pads every clip to 30 s and gives 1500 frames" in describe(facts)
    config = arch_config("whisper_tiny_en.smollm2_135m.mlp")
    config.encoder.config["trim"] = True  # type: ignore[index]
    facts = inspect(config, clips=CLIPS)
    assert [clip.frames for clip in facts.clips] == [50, 250, 750, 1500]
    assert "pads every clip" not in describe(facts)


@pytest.mark.parametrize(
    ("adapter", "options", "frame_stack"),
    [
        *((name, {}, 1) for name in ADAPTERS),
        ("conv", {}, 5),
        ("wlq_former", {"num_queries": 2}, 1),  # 2 of each begun window of 16 frames
        ("wlq_former", {"num_queries": 4}, 1),
        ("wlq_former", {"window_seconds": 1e9}, 1),
    ],
)
def test_a_skeleton_is_the_real_system(
    inspect: Inspect, tiny_config: SpeechLlmConfig, adapter: str, options: dict[str, object], frame_stack: int
) -> None:
    """Counts, widths, frames of the encoder and, where it is fixed, vectors of the adapter."""
    config = small(tiny_config, adapter, **options)
    config.frame_stack = frame_stack
    model = create_speech_llm(config).eval()
    lengths = (0.02, 0.31, 1.0, 2.47)
    facts = inspect(config, clips=lengths)
    skeleton = facts.skeleton
    for built, real in (
        (skeleton.encoder, model.encoder), (skeleton.adapter, model.adapter), (skeleton.llm, model.llm),
        (skeleton.ctc, model.ctc),
    ):
        assert count_parameters(built) == count_parameters(real)  # type: ignore[arg-type]
        if built is not None:
            assert [p.dtype for p in built.parameters()] == [p.dtype for p in real.parameters()]  # type: ignore[union-attr]
    assert facts.content_dependent == (adapter in ("cif", "ctc"))
    for clip in facts.clips:
        samples = round(16000 * clip.seconds)
        features, frames = model.encoder(torch.randn(1, samples), torch.tensor([samples]))
        assert frames.tolist() == [clip.frames]
        if not facts.content_dependent:
            taken = stack_frames(features, frames, frame_stack)
            assert model.adapter(*taken).lengths.tolist() == [clip.vectors]


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        ("conv", {"stride": 10**6}),
        ("conv", {"stride": 4, "num_convs": 40}),
        ("subsample", {"ratio": 10**9}),
        ("mlp", {"stack": 10**9}),
        ("wlq_former", {"window_seconds": 1e300}),
    ],
    ids=str,
)
def test_a_compression_above_the_frames_leaves_a_vector(
    inspect: Inspect, tiny_config: SpeechLlmConfig, adapter: str, options: dict[str, object]
) -> None:
    facts = inspect(small(tiny_config, adapter, **options), clips=(0.02, 2.0))
    assert [(clip.frames, clip.vectors) for clip in facts.clips] == [(1, 1), (100, 1)]
    assert facts.clip.vectors == 1 and "100.0:1" in describe(facts) and table([facts])


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "ctc"])
def test_frames_joined_beyond_any_memory(inspect: Inspect, tiny_config: SpeechLlmConfig, adapter: str) -> None:
    """2 TB of weights, of which only the shapes are needed."""
    config = small(tiny_config, adapter)
    config.frame_stack = 10**9
    assert "100.0:1" in describe(inspect(config))


def test_an_adapter_that_must_run_and_does_not_fit_is_one_line(
    inspect: Inspect, tiny_config: SpeechLlmConfig
) -> None:
    config = small(tiny_config, "ctc")
    config.frame_stack = 10**9
    facts = inspect(config)
    with pytest.raises(UserError, match=r"^adapter: found 2048\.0 GB of parameters, expected no more than"):
        describe(facts)


def test_tuned_parts_are_counted_as_trained(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    config = small(tiny_config, "mlp")
    frozen = inspect(config)
    config.llm_tuning = TuningConfig(lora_rank=2)
    config.encoder_tuning = TuningConfig(unfreeze=["*layers.1.*"])
    model = create_speech_llm(config)
    tuned = inspect(config)
    assert tuned.skeleton.trained == sum(weight.numel() for weight in model.parameters()) > frozen.skeleton.trained
    everything = [*model.encoder.parameters(), *model.llm.parameters()]
    assert tuned.skeleton.frozen == sum(weight.numel() for weight in everything if not weight.requires_grad)
    assert tuned.cost.frozen_bytes == 4 * tuned.skeleton.frozen
    # The encoder has a backward pass now, and keeps what it needs.
    assert tuned.cost.encoder.flops > 2 * frozen.cost.encoder.flops
    assert tuned.cost.encoder.kept_bytes > frozen.cost.encoder.kept_bytes
    # The frozen parts of other systems are left as they are.
    config.llm_tuning = config.encoder_tuning = TuningConfig()
    assert inspect(config).skeleton.trained == frozen.skeleton.trained


def test_the_table_has_all_published_systems(inspect: Inspect) -> None:
    names = [name for name, *_ in _published()]
    assert names[:20] == [".".join(parts) for parts in product(*GRID)]
    assert "w2v_bert.mt0_xxl_mt.slm" in names[20:]
    text = table([inspect("seamless_m4t_v2.mistral_7b.ctc"), inspect("whisper_tiny_en.smollm2_135m.mlp")])
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["architecture", "trained", "M"]
    assert lines[1].startswith("seamless_m4t_v2.mistral_7b.ctc ") and "25.20 + 28.35" in lines[1] and "~" in lines[1]
    assert lines[2].startswith("whisper_tiny_en.smollm2_135m.mlp ")
