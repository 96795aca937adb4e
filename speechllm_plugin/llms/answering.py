"""Decodes a batch's prompts and embeddings to texts, with the guards on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.loops import break_loops
from speechllm_plugin.llms.no_speech import find_no_speech
from speechllm_plugin.llms.positions import check_positions
from speechllm_plugin.prompts import PromptRenderer, RenderedPrompt
from speechllm_plugin.tensors.copies import on_device, on_host


def answer(
    llm: Llm,
    renderer: PromptRenderer,
    prompts: Sequence[RenderedPrompt],
    embeddings: Tensor,
    lengths: Tensor,
    *,
    keys: Sequence[str],
    seconds: Sequence[float],
    waveforms: Sequence[Tensor | None],
    blank_shares: Sequence[float] | None = None,
    config: DecodingConfig,
) -> tuple[list[str], list[Generated]]:
    """
    :param embeddings: embeddings that stand at the prompts' place for speech, `[B, T, dim]` with `lengths` `[B]` on the
        host.
    :param keys: see `Llm.generate`.
    :param seconds: durations of the audio, which limit the texts.
    :param waveforms: the audio, needed where `config` has a level of silence.
    :param blank_shares: share of blank frames of each clip, needed where `config` has a limit for it.
    :returns: the texts, and the hypothesis of each. A text that the guard against silence empties keeps its tokens.
    :raises UserError: a value of `config` is outside its range, or a clip and its text have no room in the LLM.
    """
    config.check("decoding")
    limits = [config.limit(duration) for duration in seconds]

    check_positions(llm, keys, prompts, lengths, limits)

    def search(rows: Sequence[int], config: DecodingConfig) -> list[Generated]:
        places = on_host(rows)
        return llm.generate(
            [prompts[row] for row in rows],
            embeddings[on_device(places, embeddings.device)],
            lengths[places],
            keys=[keys[row] for row in rows],
            limits=[limits[row] for row in rows],
            end_of_turn=renderer.end_of_turn,
            config=config,
        )

    generated = break_loops(search(range(len(prompts)), config), renderer.decode, search, config)
    generated = [
        replace(row, speech_vectors=length) for row, length in zip(generated, lengths.tolist(), strict=True)
    ]
    reasons = find_no_speech(llm, prompts, embeddings, lengths, generated, waveforms, blank_shares, config)
    for row, reason in reasons.items():
        generated[row] = replace(generated[row], no_speech=reason)
    return ["" if row.no_speech else renderer.decode(row.tokens) for row in generated], generated
