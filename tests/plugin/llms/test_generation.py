"""Sampling that no neighbour changes, the guard against loops, and what decoding refuses."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.llms import quantization as quantization_module
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlm, CausalLlmConfig
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.generation import _RowLimits, _RowSamples
from speechllm_plugin.llms.loops import without_loops
from speechllm_plugin.llms.quantization import quantization_options
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.text.repetition import compression_ratio

ROWS = 1500


@pytest.fixture(scope="module")
def llm(tiny_llm: Path) -> CausalLlm:
    return freeze(create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32")))


def speech_of(llm: CausalLlm) -> Tensor:
    return 0.3 * torch.randn(1, 3, llm.dim, generator=torch.Generator().manual_seed(0))


def first_tokens(llm: CausalLlm, keys: list[str], config: DecodingConfig) -> list[int]:
    """The first token of the same clip under each key; -1 where the hypothesis ends at once."""
    renderer = PromptRenderer(llm.tokenizer, PromptConfig())
    rows = llm.generate(
        [renderer.render("en", "en")] * len(keys),
        speech_of(llm).expand(len(keys), -1, -1),
        torch.full((len(keys),), 3),
        keys=keys,
        limits=[1] * len(keys),
        end_of_turn=renderer.end_of_turn,
        config=config,
    )
    return [row.tokens[0] if row.tokens else -1 for row in rows]


def first_logits(llm: CausalLlm) -> Tensor:
    prompt = PromptRenderer(llm.tokenizer, PromptConfig()).render("en", "en")
    embed = llm.model.get_input_embeddings()
    assert isinstance(embed, torch.nn.Module)
    inputs = torch.cat([embed(torch.tensor(prompt.before)), speech_of(llm)[0], embed(torch.tensor(prompt.after))])
    return llm.model(inputs_embeds=inputs.unsqueeze(0)).logits[0, -1]


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (DecodingConfig(temperature=1.0), 320),
        (DecodingConfig(temperature=3.0, seed=7), 320),
        (DecodingConfig(temperature=2.0, top_k=5), 5),
        (DecodingConfig(temperature=2.0, top_p=0.5), None),
    ],
    ids=["plain", "hot", "top-k", "top-p"],
)
def test_samples_follow_the_models_probabilities(llm: CausalLlm, config: DecodingConfig, kept: int | None) -> None:
    probabilities = (first_logits(llm) / config.temperature).softmax(-1)
    ordered = probabilities.sort(descending=True)
    if kept is None:
        kept = int((ordered.values.cumsum(0) < config.top_p).sum()) + 1
        assert 1 < kept < 100
    probabilities[ordered.indices[kept:]] = 0
    probabilities /= probabilities.sum()
    stop = llm.tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])

    found = torch.tensor(first_tokens(llm, [f"clip {row}" for row in range(ROWS)], config))
    frequencies = torch.bincount(found[found >= 0], minlength=320) / ROWS
    probabilities[stop] = 0
    assert frequencies[probabilities == 0].sum() == 0
    assert (frequencies > 0).sum() > 1
    deviation = (probabilities * (1 - probabilities) / ROWS).sqrt()
    assert ((frequencies - probabilities).abs() <= 5 * deviation + 1e-3).all()


def test_a_sample_follows_from_key_and_seed(llm: CausalLlm) -> None:
    config, keys = DecodingConfig(temperature=3.0), [f"clip {row}" for row in range(50)]
    found = first_tokens(llm, keys, config)
    assert found == first_tokens(llm, keys, config)
    assert found[10:20] == first_tokens(llm, keys[10:20], config)
    assert found[::-1] == first_tokens(llm, keys[::-1], config)
    assert len(set(first_tokens(llm, ["clip"] * 50, config))) == 1
    assert len(set(found)) > 10
    assert found != first_tokens(llm, keys, replace(config, seed=1))


def test_every_token_of_a_sample_has_a_number_of_its_own(llm: CausalLlm) -> None:
    """So hot that all tokens are equally likely: a number used twice would say a token twice."""
    renderer = PromptRenderer(llm.tokenizer, PromptConfig())
    rows = llm.generate(
        [renderer.render("en", "en")] * 4, speech_of(llm).expand(4, -1, -1), torch.full((4,), 3), keys=list("abcd"),
        limits=[30] * 4, end_of_turn=renderer.end_of_turn, config=DecodingConfig(temperature=1e4),
    )
    tokens = [token for row in rows for token in row.tokens]
    assert len(tokens) > 60 and len(set(tokens)) > 0.7 * len(tokens)


def test_a_token_without_probability_is_never_drawn() -> None:
    samples = _RowSamples(["clip"], [0], 0, 0, torch.device("cpu"))
    for point in (0.0, 0.5, 1 - 2**-53):
        samples._points = torch.tensor([[point]], dtype=torch.float64)
        scores = samples(torch.empty(1, 0, dtype=torch.long), torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]))
        assert scores.argmax().item() == (1 if point == 0 else 2)
        assert scores.isfinite().sum() == 1


class Copies(TorchDispatchMode):
    """Counts copies from one device to another."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._to_copy.default and "device" in (kwargs or {})
        return func(*args, **(kwargs or {}))


def test_a_token_costs_no_copy_between_host_and_device() -> None:
    """On the meta device, which also refuses to be asked for a value."""
    device = torch.device("meta")
    limits = _RowLimits([5, 9], 1, 7, 0, device)
    samples = _RowSamples(["a", "b"], [5, 9], 0, 0, device)
    ids, scores = torch.empty(2, 3, dtype=torch.long, device=device), torch.empty(2, 20, device=device)
    with Copies() as copies:
        assert limits(ids, samples(ids, scores)).shape == (2, 20)
        assert copies.count == 0
        torch.zeros(1).to(device)
    assert copies.count == 1


def test_a_low_temperature_is_greedy(llm: CausalLlm) -> None:
    greedy = first_tokens(llm, ["clip"], DecodingConfig())
    for low in (1e-3, 1e-4):  # the latter is the lowest allowed
        assert first_tokens(llm, [f"clip {row}" for row in range(20)], DecodingConfig(temperature=low)) == 20 * greedy


def test_the_length_penalty_changes_what_a_beam_finds(llm: CausalLlm) -> None:
    renderer = PromptRenderer(llm.tokenizer, PromptConfig())

    def lengths(penalty: float) -> list[int]:
        speech = torch.randn(16, 4, llm.dim, generator=torch.Generator().manual_seed(2))
        rows = llm.generate(
            [renderer.render("en", "en")] * 16, speech, torch.full((16,), 4), keys=["clip"] * 16, limits=[30] * 16,
            end_of_turn=renderer.end_of_turn, config=DecodingConfig(beam_size=4, length_penalty=penalty),
        )
        return [len(row.tokens) for row in rows]

    assert sum(lengths(-2.0)) < sum(lengths(1.0))


def test_the_compression_ratio() -> None:
    sentence = "set a timer for ten minutes and remind me to water the plants tomorrow"
    assert 0.5 < compression_ratio(sentence) < 1.5
    assert compression_ratio(50 * "again ") > 10
    # Too short to tell.
    assert compression_ratio("no no no no no no no") == compression_ratio("") == 0.0


@pytest.fixture
def model(tiny_config: SpeechLlmConfig) -> SpeechLlm:
    """With an LLM that loops after some clips: its layers add little to the last token, and each token calls for a
    certain other, where the speech is no louder than a word."""
    torch.manual_seed(0)
    tiny_config.output_scale = "embedding"
    model = create_speech_llm(tiny_config).eval()
    for name, weight in model.llm.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            weight.mul_(0.06)
    return model


@pytest.fixture
def batch(tiny_manifest: Path) -> SpeechTextBatch:
    return batch_of_files([tiny_manifest / f"train_{i}.{('wav', 'flac')[i % 2]}" for i in range(6)], "en", None)


def repeats_trigrams(tokens: list[int]) -> bool:
    trigrams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return len(set(trigrams)) < len(trigrams)


def test_a_looping_hypothesis_is_decoded_again(model: SpeechLlm, batch: SpeechTextBatch) -> None:
    """Only those hypotheses change, the same ones in every batch, and they are counted."""
    plain = DecodingConfig(extra_tokens=120, tokens_per_second=0)
    before, generated = model.generate(batch, plain)
    loops = [repeats_trigrams(row.tokens) for row in generated]
    assert 0 < sum(loops) < len(loops)
    assert [compression_ratio(text) > 1.5 for text in before] == loops

    config = replace(plain, max_compression_ratio=1.5)
    texts, generated = model.generate(batch, config)
    assert [row.decoded_again for row in generated] == loops
    assert [text != old for text, old in zip(texts, before, strict=True)] == loops
    assert not any(repeats_trigrams(row.tokens) for row in generated if row.decoded_again)
    for i, row in enumerate(generated):
        single = batch_of_files([batch.clips[i].audio], "en", None)
        assert model.generate(single, config) == ([texts[i]], [row])

    pytest.importorskip("fairseq2")
    from speechllm_plugin.units.evaluation import counts
    from speechllm_plugin.units.hypotheses import Decoder, _merge

    decoder = Decoder(model, config)
    decoder.decode(batch)
    decoder.decode(batch)
    assert counts(_merge([decoder.decoded, decoder.decoded]))["hypotheses_decoded_again"] == 4 * sum(loops)


def test_the_guard_has_nothing_to_add_where_trigrams_do_not_repeat() -> None:
    row = Generated(list(range(50)), cut=False)
    for size in (1, 2, 3):
        config = DecodingConfig(no_repeat_ngram_size=size, max_compression_ratio=2.4)
        assert without_loops(row, lambda tokens: 50 * "again ", config) is None
    for config in (DecodingConfig(), DecodingConfig(max_compression_ratio=1000.0)):
        assert without_loops(row, lambda tokens: 50 * "again ", config) is None
    config = DecodingConfig(no_repeat_ngram_size=4, max_compression_ratio=2.4)
    assert without_loops(row, lambda tokens: 50 * "again ", config) == replace(config, no_repeat_ngram_size=3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"beam_size": 0}, "beam_size: found 0, expected at least 1 and at most 1000"),
        ({"temperature": -0.1}, "temperature: found -0.1, expected at least 0 and at most 1000"),
        ({"temperature": float("nan")}, "temperature: found nan, expected at least 0 and at most 1000"),
        ({"temperature": 1e-40}, "temperature: found 1e-40, expected 0 or at least 0.0001"),
        ({"temperature": 1e300}, "temperature: found 1e+300, expected at least 0 and at most 1000"),
        ({"tokens_per_second": 1e300}, "tokens_per_second: found 1e+300, expected at least 0 and at most 1000"),
        ({"extra_tokens": 10**20}, f"extra_tokens: found {10**20}, expected at least 1 and at most 1000000"),
        ({"length_penalty": float("nan")}, "length_penalty: found nan, expected at least -10 and at most 10"),
        ({"length_penalty": 1e300}, "length_penalty: found 1e+300, expected at least -10 and at most 10"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p: found 0.0, expected above 0 and at most 1"),
        ({"temperature": 1.0, "top_p": 1.1}, "top_p: found 1.1, expected above 0 and at most 1"),
        ({"temperature": 1.0, "top_k": -1}, "top_k: found -1, expected at least 0"),
        ({"temperature": 1.0, "beam_size": 2}, "beam_size: found 2 with a temperature above 0, expected 1: a beam is "
                                               "not sampled"),
        ({"top_k": 5}, "top_k: found 5 with a temperature of 0, expected 0, or a temperature above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: found 0.0, expected at least 0.01 and at most 100"),
        ({"max_compression_ratio": 1.0}, "max_compression_ratio: found 1.0, expected above 1"),
        ({"temperature": 0.7, "top_k": 20, "top_p": 0.9, "max_compression_ratio": 2.4}, None),
        ({"beam_size": 4, "length_penalty": -1.0}, None),
        ({"temperature": 1e-4}, None),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(values: dict[str, float], expected: str | None) -> None:
    found = list(DecodingConfig(**values).problems())  # type: ignore[arg-type]
    assert found == ([] if expected is None else [expected])


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantisation_needs_a_gpu_and_its_library(
    quantization: Any, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CausalLlmConfig(path=str(tiny_llm), quantization=quantization)
    with pytest.raises(UserError) as caught:
        create_causal_llm(config)
    assert str(caught.value) == (
        f"llm.config.quantization: found '{quantization}' on the device 'cpu', expected a CUDA GPU, or 'none'"
    )
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cuda", 1))
    for missing in (["bitsandbytes"], ["bitsandbytes", "accelerate"]):
        monkeypatch.setitem(sys.modules, missing[-1], None)
        with pytest.raises(UserError) as caught:
            create_causal_llm(config)
        assert str(caught.value) == (
            f"llm.config.quantization: '{quantization}' needs bitsandbytes and accelerate, found no "
            f"{' and no '.join(missing)}: pip install 'speechllm-plugin[quantization]'"
        )


def test_quantisation_is_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cuda", 1))
    monkeypatch.setattr(quantization_module, "find_spec", lambda name: name)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.48.0")
    assert quantization_options("none", torch.bfloat16, "key") == {}
    options = quantization_options("int8", torch.bfloat16, "key")
    assert options["device_map"] == {"": torch.device("cuda", 1)}
    assert options["quantization_config"].load_in_8bit
    how = quantization_options("nf4", torch.bfloat16, "key")["quantization_config"]
    assert how.load_in_4bit and how.bnb_4bit_quant_type == "nf4" and how.bnb_4bit_compute_dtype == torch.bfloat16


def test_a_quantised_llm_is_neither_cast_nor_moved(tiny_llm: Path) -> None:
    for quantization, expected in (("none", torch.float64), ("int8", torch.float32)):
        llm = create_causal_llm(CausalLlmConfig(path=str(tiny_llm), dtype="float32"))
        llm.config.quantization = quantization  # type: ignore[assignment]
        assert {weight.dtype for weight in llm.to(torch.float64).parameters()} == {expected}
