"""The length limit of hypotheses, from references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from speechllm_plugin.datasets.speech_text import SpeechTextConfig, SpeechTextDataset
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.limits import ReferenceLength, rate_for, reference_lengths, report_limit
from speechllm_plugin.prompts import PromptConfig, PromptRenderer

ENGLISH, TAMIL = ("en", "en"), ("ta", "ta")
SLOW = [ReferenceLength(8, 2.0, ENGLISH)] * 300


def test_the_limit_is_for_nearly_all_references_and_half_as_many_tokens_again() -> None:
    assert rate_for(SLOW) == 6.0
    # One reference in a hundred and fifty is another text, or its clip was cut.
    assert rate_for([*SLOW, *[ReferenceLength(300, 2.0, ENGLISH)] * 2]) == 6.0
    assert rate_for([*SLOW, *[ReferenceLength(20, 2.0, ENGLISH)] * 6]) == 15.0
    # What a tenth of a second holds says nothing of a minute.
    assert rate_for([*SLOW, *[ReferenceLength(4, 0.1, ENGLISH)] * 9]) == 6.0
    assert rate_for([]) is None


def test_the_language_that_needs_most_decides_however_few_its_clips_are() -> None:
    assert rate_for([*SLOW, ReferenceLength(80, 2.0, TAMIL)]) == 60.0


def test_a_limit_that_cuts_references_is_told_with_what_would_cut_none() -> None:
    lengths = [*SLOW[:3], ReferenceLength(61, 2.0, TAMIL)]
    config = DecodingConfig(tokens_per_second=12.0, extra_tokens=16)
    assert config.limit(2.0) == 40
    assert report_limit("test", lengths, config) == 0.25
    assert report_limit("test", lengths, replace(config, tokens_per_second=22.5)) == 0.0
    assert report_limit("test", lengths, replace(config, tokens_per_second=22.4)) == 0.25
    assert report_limit("test", [], config) == 0.0


def test_references_are_counted_in_tokens_of_the_llm(tiny_llm: Path, tiny_manifest: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_llm)
    dataset = SpeechTextDataset(SpeechTextConfig(manifests={"test": str(tiny_manifest / "test.tsv")}))
    clips = [(clip, 2.0) for clip in dataset.read("test")]
    clips[0] = (replace(clips[0][0], row=replace(clips[0][0].row, tgt_text=" ")), 2.0)  # nothing to compare with
    lengths = reference_lengths(PromptRenderer(tokenizer, PromptConfig()), clips)
    texts = [clip.row.tgt_text for clip, _ in clips[1:]]
    assert [length.tokens for length in lengths] == [len(tokenizer(text)["input_ids"]) for text in texts]
    assert [length.languages for length in lengths] == [("en", "en")] * 3 + [("en", "de")] * 2


def test_changes_are_checked_and_leave_the_rest() -> None:
    run = DecodingConfig(beam_size=3, tokens_per_second=7.5)
    assert run.changed(None) == run
    assert run.changed({"extra_tokens": 4}) == replace(run, extra_tokens=4)
    # Null asks for what the run has found.
    assert run.changed({"tokens_per_second": None}) == run
    for values, message in (
        ({"beam_sise": 2}, r"decoding\.beam_sise: found an unknown key, expected one of beam_size"),
        ({"beam_size": "two"}, r"decoding\.beam_size: found 'two', expected int"),
        ({"beam_size": 0}, r"decoding\.beam_size: found 0, expected at least 1"),
        (3, "decoding: found 3, expected a mapping"),
    ):
        with pytest.raises(UserError, match=message):
            run.changed(values)


def test_a_log_tells_what_differs_from_the_run() -> None:
    run = DecodingConfig(tokens_per_second=7.5)
    assert run.described(run).startswith("as in the training run (beam_size=1, tokens_per_second=7.5, extra_tokens=16")
    changed = replace(run, beam_size=4, seed=1)
    assert changed.described(run).startswith("as in the training run, but for beam_size=4, seed=1 (beam_size=4,")
