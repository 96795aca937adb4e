"""More positions than an LLM has, and LLMs that read padding."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    DogeConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
)

from speechllm_plugin.datasets.plan import BatchLimits
from speechllm_plugin.datasets.reader import ReadOptions, SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.joining import PromptRow
from speechllm_plugin.llms.positions import Positions
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.position_room import check_room_of_batch
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptConfig, PromptRenderer

GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}


def save(folder: Path, tiny_llm: Path, kls: type[PretrainedConfig], **values: Any) -> str:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    torch.manual_seed(0)
    config = kls(vocab_size=len(tokenizer), initializer_range=0.3, **values)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    for name, seconds in (("short", 1), ("long", 15)):
        soundfile.write(tmp_path / f"{name}.wav", torch.randn(16000 * seconds).mul(0.05).numpy(), 16000)
    return [tmp_path / "short.wav", tmp_path / "long.wav"]


def system(config: SpeechLlmConfig, path: str) -> SpeechLlm:
    config.llm.config["path"] = path  # type: ignore[index]
    return create_speech_llm(config).eval()


def test_a_clip_beyond_a_table_of_positions_is_named(
    tiny_config: SpeechLlmConfig, tiny_llm: Path, clips: list[Path], tmp_path: Path
) -> None:
    model = system(tiny_config, save(tmp_path / "gpt2", tiny_llm, GPT2Config, **GPT2))
    assert model.llm.positions == Positions(128, table=True)
    prompt = model.prompts.render("en", "en")
    words = len(prompt.before) + len(prompt.after)
    limits = DecodingConfig(tokens_per_second=1, extra_tokens=4)
    with pytest.raises(UserError) as caught:
        Transcriber(model).transcribe(clips, decoding=limits)
    assert str(caught.value) == (
        f"{clips[1]}: found 150 vectors of speech, which make {words + 150 + 19} positions with the prompt and at most "
        "19 tokens of text, expected at most 128, all that the LLM has; cut the clip into segments, choose an adapter "
        "with fewer vectors, or lower decoding.tokens_per_second"
    )
    room = 128 - words - 10
    fitting = DecodingConfig(tokens_per_second=0, extra_tokens=room)
    assert len(Transcriber(model).transcribe(clips[:1], decoding=fitting)) == 1
    with pytest.raises(UserError, match=r"short\.wav: found 10 vectors of speech, which make 129 positions"):
        Transcriber(model).transcribe(clips[:1], decoding=DecodingConfig(tokens_per_second=0, extra_tokens=room + 1))
    batch = batch_of_files(clips, "en", None)
    for clip in batch:
        clip.text = clip.transcript = "turn the light on"
    for run in (model, model.swapped_loss):
        with pytest.raises(UserError, match=r"long\.wav: found 150 vectors"):
            run(batch)


def test_rotary_positions_beyond_training_are_said(
    tiny_config: SpeechLlmConfig, tiny_llm: Path, clips: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(tiny_llm, tmp_path / "llama")
    config = LlamaConfig.from_pretrained(tiny_llm)
    config.max_position_embeddings = 128
    LlamaForCausalLM(config).save_pretrained(folder)
    model = system(tiny_config, str(folder))
    assert model.llm.positions == Positions(128, table=False)
    Transcriber(model).transcribe(clips[:1])
    assert "positions" not in caplog.text
    Transcriber(model).transcribe(clips, decoding=DecodingConfig(tokens_per_second=0, extra_tokens=2))
    assert f"{clips[1]}: found 150 vectors of speech" in caplog.text
    assert "expected at most 128, what the LLM was trained on" in caplog.text
    # Of a prompt that is longer than that alone nothing good can come.
    with pytest.raises(UserError) as caught:
        Transcriber(model).ask(clips[:1], "<speech>", context="a list of names " * 40)
    expected = "fewer than 128, what the LLM was trained on; shorten its context, its history or its instruction"
    assert re.fullmatch(rf".*short\.wav: found a prompt of \d{{3,}} tokens, expected {expected}", str(caught.value))


def test_a_row_that_has_ended_at_the_end_of_the_table_stays_beside_others(tiny_llm: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "gpt2", tiny_llm, GPT2Config, **{**GPT2, "n_positions": 40})
    llm = freeze(create_causal_llm(CausalLlmConfig(path=path, dtype="float32")))
    config = DecodingConfig()

    def written(lengths: dict[int, int]) -> list[list[int]]:
        """Of rows of a prompt's length, each with the most tokens that it may have."""
        batch = llm.running_batch(llm.tokenizer.eos_token_id)
        rows = [PromptRow(torch.randn(size, 32, generator=torch.Generator().manual_seed(size))) for size in lengths]
        batch.add(rows, keys=list(map(str, lengths)), limits=list(lengths.values()), config=config)
        return [text.tokens for _, text in sorted(batch.finish().items())]

    lengths = {36: 4, 5: 30, 6: 30, 7: 30, 8: 30, 9: 30}
    found = written(lengths)
    assert found == [written({length: limit})[0] for length, limit in lengths.items()]
    assert len(found[0]) == 4 and max(map(len, found)) > 8


def test_the_longest_clip_is_checked_beforehand(
    tiny_config: SpeechLlmConfig, tiny_llm: Path, clips: list[Path], tmp_path: Path
) -> None:
    model = system(tiny_config, save(tmp_path / "gpt2", tiny_llm, GPT2Config, **GPT2))
    encoded: list[int] = []
    model.adapter.register_forward_pre_hook(lambda module, arguments: encoded.append(arguments[0].size(1)))
    (tmp_path / "all.tsv").write_text("id\taudio\ttgt_text\na\tshort.wav\tplay\nb\tlong.wav\tplay\n")
    utterances = SpeechTextDataset(SpeechTextConfig(manifests={"all": str(tmp_path / "all.tsv")})).read("all")
    options = ReadOptions(limits=BatchLimits(1, None), shuffle_seed=None, max_seconds=30.0)
    longest = SpeechTextReader(utterances, options).longest()
    assert longest is not None and longest.ids == ["b"]
    with pytest.raises(UserError, match=r"^b: found 150 vectors of speech, which make .* expected at most 128"):
        check_room_of_batch(model, longest)
    assert len(encoded) == 1
    model.llm.positions = Positions(2000, table=True)
    check_room_of_batch(model, longest)
    assert len(encoded) == 1, "where there is room for every frame none is computed"


def test_an_llm_that_reads_padding_decodes_row_by_row(
    tiny_llm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Doge masks by what it reads at a place, its padding included."""
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    path = save(tmp_path / "doge", tiny_llm, DogeConfig, **shape)
    llm = freeze(create_causal_llm(CausalLlmConfig(path=path, dtype="float32")))
    assert not llm.pads
    assert f"{path} is a DogeForCausalLM, which reads padding in spite of its mask" in caplog.text
    renderer = PromptRenderer(llm.tokenizer, PromptConfig())
    speech = torch.randn(3, 9, llm.dim, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([2, 9, 5])
    prompts = [renderer.render("en", language) for language in ("en", "de", "en")]

    def decoded(rows: list[int]) -> list[list[int]]:
        found = llm.generate(
            [prompts[row] for row in rows], speech[rows], lengths[rows], keys=["clip"] * len(rows),
            limits=[9] * len(rows), end_of_turn=renderer.end_of_turn, config=DecodingConfig(),
        )
        return [row.tokens for row in found]

    assert decoded([0, 1, 2]) == [tokens for row in range(3) for tokens in decoded([row])]
    targets = [renderer.encode_target(text) for text in ("play", "turn the light on", "call")]
    together = llm.loss(prompts, speech, lengths, targets)
    rows = [llm.loss([prompts[i]], speech[[i]], lengths[[i]], [targets[i]]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(rows))


def test_a_model_that_looks_ahead_is_refused(tiny_llm: Path, tmp_path: Path) -> None:
    path = save(
        tmp_path / "bert", tiny_llm, BertConfig, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=128, is_decoder=False,
    )
    with pytest.raises(UserError) as caught:
        create_causal_llm(CausalLlmConfig(path=path, dtype="float32"))
    assert str(caught.value) == (
        f"llm.config.path: {path} is a BertLMHeadModel: found that it reads what stands behind a token, expected a "
        "decoder, which looks back only"
    )
