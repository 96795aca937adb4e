"""In half precision a batch decodes to the tokens of its rows one by one, also where the likeliest two are level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from speechllm_plugin.encoders import whisper
from speechllm_plugin.inference.reading import batch_of_files
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.batch import Batch
from speechllm_plugin.llms.causal import create_causal_llm
from speechllm_plugin.llms.causal_llm import CausalLlmConfig
from speechllm_plugin.llms.causal_rows import CausalRows
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.encoder_decoder import EncoderDecoderRows
from speechllm_plugin.llms.exact import Block, CheckedRow, check
from speechllm_plugin.llms.generation import Search
from speechllm_plugin.llms.joining import PromptRow
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
from speechllm_plugin.models.speech_llm.factory import create_speech_llm
from speechllm_plugin.pretrained import freeze
from tests.plugin.llm_families import load_family, save_family
from tests.plugin.unsure_llm import save_unsure

DECODINGS = {
    "greedy": DecodingConfig(),
    "without repetitions": DecodingConfig(no_repeat_ngram_size=2, repetition_penalty=1.2),
    "samples": DecodingConfig(temperature=0.7, top_k=40, top_p=0.9, seed=3),
    "beams": DecodingConfig(beam_size=3),
}
LIMITS = [20, 9, 1, 40, 33, 12]
LENGTHS = [3, 11, 6, 1, 17, 8]


@pytest.fixture(scope="module")
def folder(tiny_llm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_unsure(tiny_llm, tmp_path_factory.mktemp("unsure") / "llm")


@dataclass
class Case:
    kls: type
    llm: Llm

    def inputs(self) -> list[PromptRow]:
        generator = torch.Generator().manual_seed(0)
        return [PromptRow(torch.randn(length, self.llm.dim, generator=generator).bfloat16()) for length in LENGTHS]

    def add(self, batch: Batch, rows: Sequence[int], config: DecodingConfig) -> list[int]:
        inputs = self.inputs()
        return batch.add(
            [inputs[row] for row in rows], keys=[f"clip {row}" for row in rows], limits=[LIMITS[row] for row in rows],
            config=config,
        )  # fmt: skip

    def batch(self) -> Batch:
        return self.llm.running_batch(self.llm.tokenizer.eos_token_id)


@pytest.fixture(scope="module", params=["causal", "encoder-decoder"])
def case(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "causal":
        return Case(CausalRows, freeze(create_causal_llm(CausalLlmConfig(path=str(folder), dtype="bfloat16"))))
    return Case(EncoderDecoderRows, load_family("mt5", save_family("mt5", tmp_path_factory.mktemp("mt5")), "bfloat16"))


def decoded(case: Case, rows: Sequence[int], config: DecodingConfig) -> list[Generated]:
    batch = case.batch()
    numbers = case.add(batch, rows, config)
    found = batch.finish()
    return [found[number] for number in numbers]


@pytest.mark.parametrize("decoding", DECODINGS)
@torch.no_grad()
def test_a_batch_gives_the_tokens_of_its_rows(case: Case, decoding: str) -> None:
    together = decoded(case, range(6), DECODINGS[decoding])
    assert [decoded(case, [row], DECODINGS[decoding])[0] for row in range(6)] == together
    assert decoded(case, [4, 0, 3], DECODINGS[decoding]) == [together[4], together[0], together[3]]
    for row, limit in zip(together, LIMITS, strict=True):
        assert len(row.tokens) <= limit and row.cut == (len(row.tokens) == limit)


def test_a_row_may_be_allowed_no_token(case: Case) -> None:
    batch = case.batch()
    none, some = batch.add(case.inputs()[:2], keys=["none", "some"], limits=[0, 3], config=DecodingConfig())
    found = batch.finish()
    assert found[none] == Generated([], cut=True, log_probability=0.0) and len(found[some].tokens) <= 3


@pytest.mark.parametrize("patient", [True, False])
def test_rows_that_join_change_no_token(case: Case, patient: bool) -> None:
    expected = [decoded(case, [row], DecodingConfig())[0] for row in range(6)]
    batch, found, names = case.batch(), dict[int, Generated](), dict[int, int]()
    joins = {0: [3], 1: [0, 5], 4: [1], 11: [4, 2]}
    generator = torch.Generator().manual_seed(0)

    def round_more(module: torch.nn.Module, inputs: object, output: Any) -> None:
        """As if the shape of a batch showed in every step."""
        hidden = output.last_hidden_state
        if len(hidden) > 1:
            noise = torch.randn(hidden.shape, generator=generator).to(hidden.dtype)
            output.last_hidden_state = hidden + 0.3 * hidden.std() * noise

    hook = case.llm.model.get_decoder().register_forward_hook(round_more)  # type: ignore[union-attr, operator]
    for step in range(400):
        rows = joins.get(step, [])
        names.update(zip(case.add(batch, rows, DecodingConfig()), rows, strict=True))
        found.update(batch.step(patient=patient))
        if len(found) == 6:
            break
    hook.remove()
    assert {names[number]: text for number, text in found.items()} == dict(enumerate(expected))


@torch.no_grad()
def test_each_token_is_what_the_row_alone_calls_for(case: Case) -> None:
    """Written out, one pass a token, and no draft at all."""
    rows, end = case.kls(case.llm, case.llm.tokenizer.eos_token_id), case.llm.tokenizer.eos_token_id
    rows.add(case.inputs())
    size = rows.block or max(LIMITS)
    assert max(LIMITS) > size or rows.block is None, "no text is checked in several blocks"
    for row, found in enumerate(decoded(case, range(6), DecodingConfig())):
        limit, tokens, likely = LIMITS[row], list[int](), 0.0
        while len(tokens) < limit:
            start = len(tokens) - len(tokens) % size
            padding = [end] * (min(start + size, limit) - 1 - len(tokens))
            (hidden,), place = rows.hidden([row], [Block(start, [*tokens, *padding])]), len(tokens) - start
            token = int((logits := rows.logits(hidden[place - place % 32 :][:32])[place % 32]).argmax())
            if token in rows.stops:
                break
            tokens.append(token)
            likely += float(logits.float().log_softmax(0)[token])
        assert found == Generated(tokens, cut=len(tokens) == limit)
        assert found.log_probability == pytest.approx(likely)


@torch.no_grad()
def test_a_draft_changes_nothing(case: Case) -> None:
    rows, end = case.kls(case.llm, case.llm.tokenizer.eos_token_id), case.llm.tokenizer.eos_token_id
    numbers = rows.add(case.inputs())
    searches = [Search([f"clip {row}"], [LIMITS[row]], end, DecodingConfig()) for row in numbers]
    open_rows = [CheckedRow(rows, row, search) for row, search in zip(numbers, searches, strict=True)]
    while left := [row for row in open_rows if row.text is None]:
        # Drafts that have nothing to do with the rows.
        drafts = {row: [*row.tokens, *range(7, 99)][: LIMITS[row.number] * (row.number + 1) // 3] for row in left}
        check(rows, {row: draft if len(draft) > len(row.tokens) else row.tokens for row, draft in drafts.items()})
    assert [row.text for row in open_rows] == decoded(case, range(6), DecodingConfig())


@pytest.fixture
def hard_clips(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    tone = 0.2 * np.sin(2 * np.pi * np.outer(np.arange(12000) / 16000, [200, 400, 600])).sum(1)
    quiet = np.zeros(16000)
    sounds = {
        "noise": rng.normal(0, 0.05, 24000), "hum": 0.1 * np.sin(2 * np.pi * 50 * np.arange(24000) / 16000),
        "silence behind": np.concatenate([tone, quiet]), "twice": np.concatenate([tone, tone]), "silence": quiet,
        "late": np.concatenate([quiet[:9000], tone]), "plain": tone,
    }
    for name, sound in sounds.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, 16000)
    return [tmp_path / f"{name}.wav" for name in sounds]


def test_hard_clips_give_the_same_texts_in_every_batch(
    tiny_config: SpeechLlmConfig, folder: Path, hard_clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each length a shape of its own, as other encoders have them.
    monkeypatch.setattr(whisper, "SHAPE_FRAMES", 1)
    for part in (tiny_config.encoder, tiny_config.llm):
        assert isinstance(part.config, dict)
        part.config["dtype"] = "bfloat16"
    tiny_config.llm.config["path"] = str(folder)  # type: ignore[index]
    torch.manual_seed(0)
    model = create_speech_llm(tiny_config).eval()
    batch = batch_of_files(hard_clips, "en", None)
    with torch.no_grad():
        heard = model.listen(batch)
        alone = [model.listen(batch.row(i)) for i in range(len(batch))]
        assert not torch.equal(model.adapt(batch).seqs, heard.seqs), "the shape of the batch does not show"
    assert heard.lengths.tolist() == [int(row.lengths) for row in alone]
    assert all(torch.equal(seqs[: row.seqs.size(1)], row.seqs[0]) for seqs, row in zip(heard.seqs, alone, strict=True))
    for config in (DecodingConfig(), DecodingConfig(beam_size=2)):
        transcribe = partial(Transcriber(model).transcribe, decoding=config)
        texts = transcribe(hard_clips)
        assert texts == [transcribe([clip])[0] for clip in hard_clips]
        assert transcribe(hard_clips[4:1:-1]) == texts[4:1:-1]


def test_a_float32_system_adapts_its_batch_at_once(tiny_config: SpeechLlmConfig, hard_clips: list[Path]) -> None:
    model = create_speech_llm(tiny_config).eval()
    batch = batch_of_files(hard_clips[:3], "en", None)
    seen: list[Tensor] = []
    model.adapter.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    with torch.no_grad():
        model.listen(batch)
        assert [len(features) for features in seen] == [3]
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as a validation may run
            model.listen(batch)
        assert [len(features) for features in seen] == [3, 1, 1, 1]
