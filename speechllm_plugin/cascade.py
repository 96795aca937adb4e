"""The baseline without an adapter: a recogniser writes the speech down, an LLM works on the text.

It answers the question that SLM leaves open (arXiv 2310.00230): is a joint system better than a cascade of the same
parts? The prompt is the joint system's, with the embedded words of the transcript in the place of the speech. Clips
that are to be transcribed never reach the LLM: there the recogniser is the whole cascade.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.llms.answering import answer
from speechllm_plugin.llms.api import DecodingConfig, Generated, Llm
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptRenderer
from speechllm_plugin.recognizers.api import Recognized, Recognizer


class Cascade(nn.Module):
    def __init__(self, recognizer: Recognizer, llm: Llm, prompts: PromptRenderer) -> None:
        super().__init__()
        self.recognizer = freeze(recognizer)
        self.llm = freeze(llm)
        self.prompts = prompts

    def generate(self, batch: SpeechTextBatch, config: DecodingConfig) -> tuple[list[str], list[Generated]]:
        """Both stages; each row gives the same text as it would alone."""
        return self.answer(batch, self.recognize(batch), config)

    def recognize(self, batch: SpeechTextBatch) -> list[Recognized]:
        """The first stage: what is said, in its own language."""
        waveforms = [waveform for waveform in batch.waveforms if waveform is not None]
        return self.recognizer.recognize(waveforms, batch.source_langs)

    def answer(
        self, batch: SpeechTextBatch, transcripts: Sequence[Recognized], config: DecodingConfig
    ) -> tuple[list[str], list[Generated]]:
        """The second stage: translations by the LLM, and transcripts as they are.

        :param config: of the LLM; the recogniser is greedy.
        """
        texts = [transcript.text for transcript in transcripts]
        generated = [Generated([], cut=transcript.cut) for transcript in transcripts]
        # Of silence there is nothing to translate, and an LLM that is given nothing makes something up.
        rows = [i for i in range(len(batch)) if batch.target_langs[i] not in ("", batch.source_langs[i]) and texts[i]]
        if not rows:
            return texts, generated
        table = self.llm.embedding_table
        ids = [self.prompts.encode_target(texts[row])[:-1] for row in rows]
        embeddings = [table[torch.tensor(words, device=table.device)] for words in ids]
        answers, answered = answer(
            self.llm,
            self.prompts,
            [self.prompts.render(batch.source_langs[row], batch.target_langs[row]) for row in rows],
            nn.utils.rnn.pad_sequence(embeddings, batch_first=True),
            torch.tensor([len(words) for words in ids], device=table.device),
            keys=[batch.ids[row] for row in rows],
            seconds=[batch.seconds[row] for row in rows],
            config=config,
        )
        for row, text, hypothesis in zip(rows, answers, answered, strict=True):
            texts[row], generated[row] = text, hypothesis
        return texts, generated
