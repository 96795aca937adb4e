"""The baseline without an adapter: a recogniser writes the speech down, an LLM works on the text.

It answers the question that SLM leaves open (arXiv 2310.00230): is a joint system better than a cascade of the same
parts? The prompt is the joint system's, with the words of the transcript in the place of the speech: the LLM translates
them, or answers them where `PromptConfig.answer` says so. Clips that are to be transcribed never reach the LLM: there
the recogniser is the whole cascade.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from speechllm_plugin.cascade.recognizers.api import Recognized, Recognizer
from speechllm_plugin.datasets.batch import Clip, SpeechTextBatch
from speechllm_plugin.llms.answering import answer
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.texts_as_speech import embed_texts
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.pretrained.part import rounds
from speechllm_plugin.prompts import PromptConfig, PromptRenderer
from speechllm_plugin.tasks.row_prompt import RowPrompt

SILENCE = "..."
"""The text of an earlier turn in which the recogniser hears nothing."""


class Cascade(nn.Module):
    def __init__(self, recognizer: Recognizer, llm: Llm | None, prompt: PromptConfig) -> None:
        """:param llm: None where no clip needs it."""
        super().__init__()
        self.recognizer = freeze(recognizer)
        self.llm = None if llm is None else freeze(llm)
        self._recognized: dict[tuple[str, str], Recognized] = {}
        """Recognised texts by the identity of a clip's audio and by its language."""
        self.prompts = None if llm is None else PromptRenderer(llm.tokenizer, prompt, chat=llm.chat)

    def generate(self, batch: SpeechTextBatch, config: DecodingConfig) -> tuple[list[str], list[Generated]]:
        """Both stages; each row gives the same text as it would alone."""
        return self.answer(batch, self.recognize(batch), config)

    def wait_for_others(self) -> None:
        """See `Llm.wait_for_others`."""
        if self.llm is not None:
            self.llm.wait_for_others()

    def recognize(self, batch: SpeechTextBatch) -> list[Recognized]:
        """The first stage: what is said, in its own language."""
        keys = [(clip.audio_key, clip.source_lang) for clip in batch]
        # A clip that is to be translated into several languages has several rows, and is recognised once.
        new = {key: row for row, key in enumerate(keys) if key not in self._recognized}
        if new:
            waveforms = [waveform for row in new.values() if (waveform := batch.clips[row].waveform) is not None]
            transcripts = self._recognize(waveforms, [language for _, language in new])
            self._recognized.update(zip(new, transcripts, strict=True))
        return [self._recognized[key] for key in keys]

    def _recognize(self, waveforms: Sequence[Tensor], languages: Sequence[str]) -> list[Recognized]:
        if not rounds(self.recognizer):
            return self.recognizer.recognize(waveforms, languages)
        # In half precision the shape of a batch decides between tokens that are nearly as likely.
        pairs = zip(waveforms, languages, strict=True)
        return [row for waveform, language in pairs for row in self.recognizer.recognize([waveform], [language])]

    def answer(
        self, batch: SpeechTextBatch, transcripts: Sequence[Recognized], config: DecodingConfig
    ) -> tuple[list[str], list[Generated]]:
        """The second stage: the LLM translates and answers; transcripts stay as they are.

        :param config: how the LLM decodes; the recogniser is greedy.
        """
        texts = [transcript.text for transcript in transcripts]
        generated = [Generated([], cut=transcript.cut) for transcript in transcripts]
        clips = batch.clips
        # Silence has nothing to translate, and an LLM makes something up for an empty text.
        rows = [row for row, clip in enumerate(clips) if not clip.task.writes_speech and texts[row]]
        if not rows:
            return texts, generated
        if self.llm is None or self.prompts is None:
            raise ValueError(f"{clips[rows[0]].id}: the clip needs an LLM, but the cascade has none")
        rendered = [
            self.prompts.render_text(
                clip.source_lang, clip.target_lang, texts[row], clip.task, self._heard(clip), clip.draw
            )
            for row, clip in ((row, clips[row]) for row in rows)
        ]
        prompts, ids = zip(*rendered, strict=True)
        answers, answered = answer(
            self.llm,
            self.prompts,
            prompts,
            *embed_texts(self.llm, ids),
            keys=[clips[row].id for row in rows],
            seconds=[clips[row].seconds for row in rows],
            waveforms=[clips[row].waveform for row in rows],
            config=config,
        )
        for row, text, hypothesis in zip(rows, answers, answered, strict=True):
            texts[row], generated[row] = text, hypothesis
        return texts, generated

    def _heard(self, clip: Clip) -> RowPrompt:
        """The prompt of the clip's row, with the recogniser's text in place of earlier speech."""
        if not clip.earlier:
            return clip.asks
        found = iter(self.recognize(SpeechTextBatch(clip.earlier)))
        history = tuple(replace(turn, transcript=next(found).text or SILENCE) if turn.audio else turn
                        for turn in clip.asks.history)  # fmt: skip
        return replace(clip.asks, history=history)
