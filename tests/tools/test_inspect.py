"""`speechllm inspect`: counts, rates and costs, against the real modules, the paper and arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from speechllm_tools.cli import main
from speechllm_tools.inspect.command import _published
from speechllm_tools.inspect.cost import PROMPT_TOKENS, CostModel, Kept
from speechllm_tools.inspect.facts import CLIPS, Facts, gather
from speechllm_tools.inspect.published import RATES, SIZES
from speechllm_tools.inspect.report import describe, table
from speechllm_tools.inspect.skeleton import SkeletonBuilder, count_parameters, frozen_bytes

from speechllm_plugin.errors import UserError
from speechllm_plugin.masks import stack_frames
from speechllm_plugin.models.speech_llm.archs import ENCODER_ARCHS
from speechllm_plugin.models.speech_llm.config import GRID, CtcConfig, PartSection, SpeechLlmConfig, arch_config
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.tuning import TuningConfig
from speechllm_plugin.prompts import RenderedPrompt
from speechllm_plugin.yaml_text import parse_yaml

Inspect = Callable[..., Facts]
ENCODERS = sorted((Path(__file__).parents[2] / "recipes/speechllm_recipes/configs/axes/encoder").glob("*.yaml"))
ADAPTERS = ("base", "conv", "cif", "ctc", "wlq_former", "subsample", "mlp")


@pytest.fixture(scope="module")
def inspect() -> Inspect:
    builder, costs = SkeletonBuilder(), CostModel()

    def run(
        config: SpeechLlmConfig | str,
        *,
        seconds: float = 2.0,
        target_tokens: int = 8,
        clips: tuple[float, ...] = (2.0,),
        batch_size: int = 10,
    ) -> Facts:
        name = config if isinstance(config, str) else "test"
        skeleton = builder.build(arch_config(config) if isinstance(config, str) else config)
        return gather(
            name, skeleton, costs, seconds=seconds, target_tokens=target_tokens, batch_size=batch_size, clips=clips
        )

    return run


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


def unpadded(adapter: str) -> SpeechLlmConfig:
    """50 frames for each second: an adapter runs for real, and 1500 would take it seconds."""
    config = arch_config(f"whisper_tiny_en.smollm2_135m.{adapter}")
    config.encoder.config["pad_to_30s"] = False  # type: ignore[index]
    return config


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


def small(tiny_config: SpeechLlmConfig, adapter: str, **options: object) -> SpeechLlmConfig:
    sizes = {"dim": 16, "num_heads": 2, "ffn_dim": 32, "dropout": 0.1}
    values: dict[str, object] = {"stack": 3, "hidden_dim": 48} if adapter == "mlp" else dict(sizes)
    values.update(options)
    tiny_config.adapter = PartSection(name=adapter, config=values)
    tiny_config.ctc = CtcConfig(weight=0.1 if adapter in ("cif", "ctc") else 0.0)
    return tiny_config


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


def test_encoder_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    """2 per weight and frame, and 4 x T^2 x width of attention in each of 32 layers."""
    facts = inspect("whisper_large_v3.smollm2_135m.mlp")
    weights, attention = 2 * 636_968_960 * 1500, 4 * 1500**2 * 1280 * 32
    assert facts.cost.encoder.flops == pytest.approx(weights + attention, rel=0.01)
    assert facts.cost.encoder.kept_bytes == 1500 * 1280 * 4


def test_adapter_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    facts = inspect(unpadded("base"), seconds=8.0)
    parameters = count_parameters(facts.skeleton.adapter)
    assert facts.cost.adapter.flops == pytest.approx(3 * (2 * parameters * 400 + 4 * 4 * 400**2 * 768), rel=0.01)


@pytest.mark.parametrize("adapter", ["cif", "ctc"])
def test_layers_after_a_compression_see_what_it_left(inspect: Inspect, adapter: str) -> None:
    """Half of the layers at 400 frames, half at a few."""
    base = inspect(unpadded("base"), seconds=8.0).cost.adapter.flops
    assert 0.45 * base < inspect(unpadded(adapter), seconds=8.0).cost.adapter.flops < 0.65 * base


def test_llm_flops_are_those_of_its_layers(inspect: Inspect) -> None:
    """Forward, and backward through what is frozen: 2 + 2 per weight and token; attention 4 + 8."""
    facts = inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0, target_tokens=20)
    tokens = 188 + PROMPT_TOKENS + 20
    table = 32768 * 4096
    layers = 7_248_023_552 - 2 * table
    expected = 4 * layers * tokens + 4 * table * 20 + 12 * tokens**2 * 4096 * 32
    assert facts.cost.llm.flops == pytest.approx(expected, rel=0.01)


def test_llm_flops_equal_those_of_a_real_backward_pass(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = small(tiny_config, "mlp")
    config.llm.config["attention"] = "eager"  # type: ignore[index] (whose products are plain ones)
    facts = inspect(config)
    model: Any = create_speech_llm(config).llm.requires_grad_(False)
    rows = torch.randn(1, facts.clip.vectors + PROMPT_TOKENS + 8, 32, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        model.head(model.decoder(inputs_embeds=rows, use_cache=False).last_hidden_state[:, -8:]).sum().backward()
    # The rotary embedding's frequencies get no gradient: 2 % here, nothing at width 4096.
    assert facts.cost.llm.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_what_the_llm_keeps_is_what_its_loss_keeps(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    facts = inspect(small(tiny_config, "mlp"), seconds=4.0)
    llm = create_speech_llm(tiny_config).llm
    vectors = facts.clip.vectors
    speech = torch.randn(2, vectors, 32, requires_grad=True)
    prompt = RenderedPrompt(before=(), after=tuple(range(PROMPT_TOKENS)))
    kept = Kept(llm)
    with kept:  # two of a length would need no mask, and attention then keeps less
        llm.loss([prompt] * 2, speech, torch.tensor([vectors, vectors - 1]), [list(range(8))] * 2)
    assert facts.cost.llm.kept_bytes == pytest.approx(kept.total / 2, rel=0.05)


def test_the_ctc_head_is_counted(inspect: Inspect) -> None:
    facts = inspect("seamless_m4t_v2.mistral_7b.ctc", seconds=30.0)
    assert facts.cost.ctc.flops == 3 * 2 * 188 * 768 * 32769
    assert facts.cost.ctc.kept_bytes == 2 * 188 * 32769 * 4
    assert inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0).cost.ctc.flops == 0


def test_the_ctc_head_is_counted_for_the_vectors_it_scores_too(
    inspect: Inspect, tiny_config: SpeechLlmConfig
) -> None:
    """`token_weight`: the head's second pass, over one vector for each of 8 tokens; without it 100 frames."""
    without = inspect(small(tiny_config, "cif")).cost.ctc
    both = inspect(small(tiny_config, "cif", token_weight=0.3)).cost.ctc
    assert both.flops == without.flops * 108 / 100
    assert both.kept_bytes == without.kept_bytes * 108 / 100


def test_the_ctc_head_is_counted_for_final_vectors(inspect: Inspect, tiny_config: SpeechLlmConfig) -> None:
    """7 windows of 16 frames, the last of 4, give 14."""
    config = small(tiny_config, "wlq_former", num_queries=2, ctc_frames="after")
    config.ctc = CtcConfig(weight=0.1)
    facts = inspect(config)
    head: Any = facts.skeleton.ctc
    assert facts.cost.ctc.kept_bytes == 2 * 14 * head.classifier.out_features * 4


def test_memory_is_the_sum_of_what_is_held(inspect: Inspect) -> None:
    facts = inspect("seamless_m4t_v2.mistral_7b.base", seconds=30.0, target_tokens=20)
    cost = facts.cost
    assert cost.frozen_bytes == 2 * (635_046_720 + 7_248_023_552)
    assert cost.trained_bytes == 16 * count_parameters(facts.skeleton.adapter)
    assert cost.gpu_bytes(7) == cost.frozen_bytes + cost.trained_bytes + 7 * cost.sample_bytes
    # Per token and layer at least: queries and what attention gives, keys and values, and three of the feed-forward.
    tokens, layer = 188 + PROMPT_TOKENS + 20, 2 * (2 * 4096 + 2 * 1024 + 3 * 14336)
    assert 32 * tokens * layer < cost.llm.kept_bytes < 2 * 32 * tokens * layer


def test_attention_that_keeps_its_scores_takes_more(inspect: Inspect) -> None:
    kept = {}
    for attention in ("sdpa", "eager"):
        config = arch_config("whisper_tiny_en.smollm2_135m.mlp")
        config.llm.config["attention"] = attention  # type: ignore[index]
        kept[attention] = inspect(config).cost.llm.kept_bytes
    tokens = 300 + PROMPT_TOKENS + 8
    assert kept["eager"] - kept["sdpa"] > 30 * 9 * tokens**2 * 2


def test_quantised_weights_take_fewer_bytes(inspect: Inspect) -> None:
    """All of Mistral but embeddings, head and norms is in linear layers."""
    sizes = {}
    for quantization in ("none", "int8", "nf4"):
        config = arch_config("seamless_m4t_v2.mistral_7b.base")
        config.llm.config["quantization"] = quantization  # type: ignore[index]
        sizes[quantization] = frozen_bytes(inspect(config).skeleton)
    linear = 7_248_023_552 - 2 * 32768 * 4096 - 65 * 4096
    assert sizes["none"] - sizes["int8"] == linear
    assert sizes["none"] - sizes["nf4"] == pytest.approx(linear * 1.484, rel=0.001)


def test_the_table_has_all_published_systems(inspect: Inspect) -> None:
    names = [name for name, _ in _published()]
    assert names[:20] == [".".join(parts) for parts in product(*GRID)]
    assert "w2v_bert.mt0_xxl_mt.subsample" in names[20:]
    text = table([inspect("seamless_m4t_v2.mistral_7b.ctc"), inspect("whisper_tiny_en.smollm2_135m.mlp")])
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["architecture", "trained", "M"]
    assert lines[1].startswith("seamless_m4t_v2.mistral_7b.ctc ") and "25.20 + 28.35" in lines[1] and "~" in lines[1]
    assert lines[2].startswith("whisper_tiny_en.smollm2_135m.mlp ")


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    status = main(["inspect", *map(str, argv)])
    out, err = capsys.readouterr()
    return status, out, err


ARCH = "whisper_tiny_en.smollm2_135m.mlp"


def test_json_says_what_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, ARCH, "--json", "--seconds", "3", "--target-tokens", "12", "--batch-size", "4")
    values = json.loads(out)
    assert status == 0
    assert values["encoder"]["parameters"] == 8_208_384 and values["encoder"]["dim"] == 384
    assert values["llm"]["parameters"] == 134_515_008 and values["llm"]["vocabulary"] == 49152
    assert values["parameters"]["frozen"] == 8_208_384 + 134_515_008
    assert values["parameters"]["trainable"] == values["adapter"]["parameters"]
    training = values["training"]
    assert (training["seconds"], training["target_tokens"], training["batch_size"]) == (3, 12, 4)
    parts = ("encoder", "adapter", "ctc", "llm")
    assert training["flops_per_sample"] == sum(training[f"{part}_flops"] for part in parts)
    status, out, _ = run(capsys, ARCH, "--seconds", "3", "--target-tokens", "12", "--batch-size", "4")
    assert status == 0 and "134,515,008" in out and "4 samples" in out
    assert f"{training['bytes_per_gpu'] / 1e9:.2f}" in out and f"{training['flops_per_sample'] / 1e12:.3f}" in out


def test_a_yaml_file_is_read_as_the_recipe_reads_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    overrides = {"adapter": {"config": {"stack": 10}}, "encoder": {"config": {"trim": True}}, "ctc": {"weight": 0.2}}
    recipe = {"model": {"arch": ARCH, "config_overrides": overrides}, "dataset": {"batch_size": 3}}
    file.write_text(json.dumps(recipe))
    values = json.loads(run(capsys, file, "--json")[1])
    assert values["adapter"]["config"]["stack"] == 10 and values["ctc"]["weight"] == 0.2
    assert values["ctc"]["parameters"] == 577 * 49153
    assert values["output"]["clips"][0] == {"seconds": 1.0, "frames": 50, "vectors": 5, "compression": 10, "hertz": 5}
    assert values["training"]["batch_size"] == 3


@pytest.mark.parametrize("fragment", ENCODERS, ids=lambda fragment: fragment.stem)
def test_an_encoders_fragment_can_be_inspected_without_its_model(
    inspect: Inspect, tiny_config: SpeechLlmConfig, fragment: Path
) -> None:
    values = parse_yaml(fragment.read_text())["model"]["config_overrides"]["encoder"]
    config = small(tiny_config, "mlp")
    config.encoder = PartSection(**values)
    facts = inspect(config)
    assert facts.skeleton.encoder.frame_rate == (6.25 if "seamless" in fragment.stem else 50)
    assert facts.skeleton.frozen > 300_000_000


@pytest.mark.parametrize("name", [name for name, arch in ENCODER_ARCHS.items() if arch.part == "wav2vec2"])
def test_wav2vec2_and_its_relatives_are_known_by_name(inspect: Inspect, name: str) -> None:
    facts = inspect(f"{name}.smollm2_135m.mlp")
    encoder = facts.skeleton.encoder
    assert (encoder.dim, encoder.frame_rate) == (1024, 50)
    assert [clip.frames for clip in facts.clips] == [99]  # windows of 25 ms, one every 20 ms
    # All but the vector that hides spans in pretraining.
    assert count_parameters(encoder) == (315_453_120 if name == "wavlm_large" else 315_438_720) - 1024


def test_the_demo_can_be_inspected_without_its_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from speechllm_recipes import cli

    monkeypatch.chdir(tmp_path)
    file = Path(cli.__file__).parent / "configs/demo.yaml"
    values = json.loads(run(capsys, file, "--json")[1])
    assert values["llm"]["config"]["path"] == "demo/models/smollm2-135m-instruct"
    assert values["llm"]["parameters"] == 134_515_008
    assert values["training"]["batch_size"] == 4


@pytest.mark.parametrize("below", ["", "checkpoints/step_3"])
def test_a_run_is_inspected_by_its_checkpoint(
    capsys: pytest.CaptureFixture[str], tiny_config: SpeechLlmConfig, tmp_path: Path, below: str
) -> None:
    tiny_config.resolve()
    step = tmp_path / "checkpoints" / "step_3" / "model"
    step.mkdir(parents=True)
    torch.save({}, step / "pp_00.pt")
    saved = {"model_config": asdict(tiny_config)}
    (tmp_path / "checkpoints" / "model.yaml").write_text(json.dumps(saved))
    values = json.loads(run(capsys, tmp_path / below, "--json")[1])
    assert values["adapter"]["config"]["hidden_dim"] == 48
    assert values["encoder"]["dim"] == values["llm"]["dim"] == 32


def test_a_run_that_has_not_saved_yet(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"model": {"arch": ARCH}, "dataset": {"batch_size": 2}}))
    values = json.loads(run(capsys, tmp_path, "--json")[1])
    assert values["adapter"]["name"] == "mlp" and values["training"]["batch_size"] == 2


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("whisper_tiny_en.smollm2_135m.mpl",), ("ARCH_OR_CONFIG: found", f"did you mean {ARCH}")),
        (("no/such/run",), ("ARCH_OR_CONFIG: found no no/such/run", "a file or a directory")),
        ((), ("ARCH_OR_CONFIG", "--all")),
        ((ARCH, "--all"), ("ARCH_OR_CONFIG", "--all")),
        ((ARCH, "--seconds", "0"), ("--seconds: found 0", "more than 0")),
        ((ARCH, "--seconds", "inf"), ("--seconds: found inf", "finite")),
        ((ARCH, "--seconds", "31"), ("--seconds", "31.00 s", "at most 30 s")),
        ((ARCH, "--target-tokens", "-1"), ("--target-tokens: found -1",)),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    status, out, err = run(capsys, *argv)
    assert status == 2 and out == "" and err.count("\n") == 1
    assert err.startswith("speechllm inspect: error: ")
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("model: {arch: x.y.z}", ("arch: found 'x.y.z'", "encoder.llm.adapter")),
        ("model: {config_overrides: {adapter: {nme: base}}}", ("model.config_overrides.adapter.nme", "unknown key")),
        ("model: {config_overrides: {ctc: {weight: -1}}}", ("model.config_overrides.ctc.weight: found -1",)),
        ("model: {config_overrides: {encoder_tuning: {lora_rank: -3}}}", ("encoder_tuning.lora_rank: found -3",)),
        ("modle: {arch: x}", ("config.yaml: modle: found an unknown key",)),
        ("dataset: {batch_sise: 3}", ("config.yaml: dataset.batch_sise: found an unknown key",)),
        ("dataset: {batch_size: many}", ("dataset.batch_size", "'many'", "an integer")),
        ("dataset: {batch_size: 0}", ("dataset.batch_size: found 0, expected at least 1",)),
        (
            "model: {arch: ARCH.cif, config_overrides: {adapter: {config: {token_weight: .inf}}}}",
            ("adapter.config.token_weight: found inf, expected a finite number of at least 0",),
        ),
        (
            "model: {arch: ARCH.wlq_former, config_overrides: {adapter: {config: {window_seconds: .inf}}}}",
            ("adapter.config.window_seconds: found inf, expected a finite number above 0",),
        ),
        ("[1, 2", ("config.yaml",)),
        ("- a list", ("config.yaml",)),
    ],
)
def test_yaml_files_that_are_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: tuple[str, ...]
) -> None:
    content = content.replace("ARCH", ARCH.removesuffix(".mlp"))
    (tmp_path / "config.yaml").write_text(content)
    status, out, err = run(capsys, tmp_path / "config.yaml")
    assert status == 2 and out == "" and err.count("\n") == 1, err
    for word in words:
        assert word in err


def test_a_model_whose_shape_is_not_known_is_one_line(tiny_config: SpeechLlmConfig, tiny_llm: Path) -> None:
    tiny_config.llm.config["path"] = "someone/some-llm"  # type: ignore[index]
    with pytest.raises(UserError, match=r"^llm\.config\.path: found 'someone/some-llm', which is no directory here "):
        SkeletonBuilder().build(tiny_config)
    tiny_config.llm.config.path = str(tiny_llm)  # type: ignore[attr-defined]
    tiny_config.encoder.config.path = str(tiny_llm)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"^encoder\.config\.path: .* of type 'llama', expected whisper$"):
        SkeletonBuilder().build(tiny_config)
