"""From prompts and embeddings to texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.loops import without_loops
from speechllm_plugin.llms.no_speech import find_no_speech
from speechllm_plugin.llms.positions import check_positions
from speechllm_plugin.prompts import PromptRenderer, RenderedPrompt


@dataclass(frozen=True)
class _Asked:
    """A clip, as the LLM gets it."""

    number: int
    key: str
    limit: int
    prompt: RenderedPrompt
    embeddings: Tensor
    """`[1, T, dim]`."""
    length: Tensor
    """`[1]`, on the host."""
    waveform: Tensor | None
    blank_share: float | None
    config: DecodingConfig
    again: bool = False
    """Whether it is decoded again, without repetitions."""


class Answers:
    """Texts that are written together: see `Batch`."""

    def __init__(self, llm: Llm, renderer: PromptRenderer) -> None:
        self._llm, self._renderer = llm, renderer
        self._batch = llm.running_batch(renderer.end_of_turn)
        self._asked: dict[int, _Asked] = {}
        """By their numbers in the batch."""
        self._count = 0

    def __len__(self) -> int:
        """Clips that have no text as yet."""
        return len(self._asked)

    @property
    def joins(self) -> bool:
        """Whether a clip that is added now begins at once."""
        return self._batch.joins

    def add(
        self,
        prompts: Sequence[RenderedPrompt],
        embeddings: Tensor,
        lengths: Tensor,
        *,
        keys: Sequence[str],
        seconds: Sequence[float],
        waveforms: Sequence[Tensor | None],
        blank_shares: Sequence[float] | None = None,
        config: DecodingConfig,
    ) -> list[int]:
        """See `answer`. After an error all is as it was.

        :returns: a number for each clip.
        :raises UserError: as `answer`; or no CTC head has given what `config.no_speech_blank_share` asks for.
        """
        config.check("decoding")
        if config.no_speech_blank_share is not None and blank_shares is None:
            raise UserError(
                f"decoding.no_speech_blank_share: found {config.no_speech_blank_share}, expected null: no CTC head "
                "scores the frames"
            )
        limits = [config.limit(duration) for duration in seconds]
        check_positions(self._llm, keys, prompts, lengths, limits)
        shares: Sequence[float | None] = blank_shares or [None] * len(prompts)
        asked = [
            _Asked(
                self._count + row, keys[row], limits[row], prompts[row],
                # A copy: neighbours that end earlier leave no memory behind.
                embeddings[row : row + 1, : int(lengths[row])].clone(), lengths[row : row + 1], waveforms[row],
                shares[row], config,
            )
            for row in range(len(prompts))
        ]  # fmt: skip
        self._begin(asked, embeddings, lengths, config)
        self._count += len(asked)
        return [one.number for one in asked]

    def _begin(
        self, asked: Sequence[_Asked], embeddings: Tensor, lengths: Tensor, config: DecodingConfig
    ) -> None:
        """:param embeddings: `[B, T, dim]` with `lengths` `[B]`."""
        with torch.no_grad():
            rows = self._llm.prompt_rows([one.prompt for one in asked], embeddings, lengths)
        numbers = self._batch.add(
            rows, keys=[one.key for one in asked], limits=[one.limit for one in asked], config=config
        )
        self._asked.update(zip(numbers, asked, strict=True))

    def drop(self, number: int) -> None:
        """Ends a clip without a text."""
        for row, one in list(self._asked.items()):
            if one.number == number:
                del self._asked[row]
                self._batch.drop(row)

    def step(self, *, patient: bool = False) -> dict[int, tuple[str, Generated]]:
        """One more token for each clip.

        :param patient: see `Batch.step`.
        :returns: by the numbers of clips that have ended, their texts, and how each came about. A text that the guard
            against silence empties keeps its tokens.
        """
        found = {}
        for row, generated in self._batch.step(patient=patient).items():
            asked = self._asked.pop(row)
            again = None if asked.again else without_loops(generated, self._renderer.decode, asked.config)
            if again is not None:
                self._begin([replace(asked, again=True)], asked.embeddings, asked.length, again)
            else:
                found[asked.number] = self._ended(asked, replace(generated, decoded_again=asked.again))
        return found

    def _ended(self, asked: _Asked, generated: Generated) -> tuple[str, Generated]:
        # An earlier turn's speech has words behind it, which the LLM gets as embeddings, too.
        vectors = int(asked.length) - sum(map(len, asked.prompt.between))
        generated = replace(generated, speech_vectors=vectors)
        # Alone, so that the result does not depend on its batch.
        no_speech = find_no_speech(
            self._llm, asked.prompt, asked.embeddings[:, : int(asked.length)], asked.length, generated,
            asked.waveform, asked.blank_share, asked.config,
        )  # fmt: skip
        text = "" if no_speech else self._renderer.decode(generated.tokens)
        return text, replace(generated, no_speech=no_speech)

    def finish(self) -> dict[int, tuple[str, Generated]]:
        """Steps until every clip has its text."""
        found = {}
        while len(self):
            found.update(self.step(patient=True))
        return found


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
    :param waveforms: the audio, where the level of the sound is asked for.
    :param blank_shares: of each clip's frames, where the CTC head's view of them is asked for.
    :returns: the texts, and how each came about: see `Answers.step`.
    :raises UserError: a value of `config` is outside its range, or a clip and its text have no room in the LLM.
    """
    answers = Answers(llm, renderer)
    numbers = answers.add(
        prompts, embeddings, lengths, keys=keys, seconds=seconds, waveforms=waveforms, blank_shares=blank_shares,
        config=config,
    )  # fmt: skip
    found = answers.finish()
    texts, generated = zip(*(found[number] for number in numbers), strict=True)
    return list(texts), list(generated)
