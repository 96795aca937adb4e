"""A trained system as people use it: files, arrays or clips in, texts and times out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from speechllm_plugin.alignment.timed_text import TimedText
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.inference.reading import Audio, batch_of_files
from speechllm_plugin.inference.running import RunningClips
from speechllm_plugin.inference.timing import tells_times
from speechllm_plugin.llms.decoding import DecodingConfig, without_guards
from speechllm_plugin.llms.engine import Engine, find_server
from speechllm_plugin.llms.vllm.server import VllmServer
from speechllm_plugin.models.speech_llm.checkpoint import load_model
from speechllm_plugin.models.speech_llm.checkpoint_files import Step, find_system
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.saved_system import SavedSystem
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.api import Task
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt, question


def load_speech_llm(
    path: Path | str,
    step: Step = "best",
    *,
    device: str | None = None,
    overrides: dict[str, Any] | None = None,
    engine: Engine = "transformers",
    engine_url: str | None = None,
) -> Transcriber:
    """Loads a trained system, ready to transcribe.

    :param path: see `find_system`.
    :param device: "cpu", "cuda", ...; None = the GPU if there is one.
    :param overrides: configuration keys to change, by dotted path, for instance
        `{"llm.config.path": "models/llama", "encoder.config.path": "models/whisper"}` where the frozen parts moved.
    :param engine: what runs the LLM: "vllm" = a vLLM server, which `speechllm vllm serve` starts; encoder and adapter
        run here.
    :param engine_url: address of that server; None = that of `speechllm vllm serve` on this machine.
    :returns: encoder and LLM in the precision of the training, or in float32 where the device does not multiply that
        in hardware; `llm.config.dtype` among the overrides decides otherwise.
    :raises UserError: there is no such checkpoint, device or server, a key is wrong, or files are damaged.
    """
    server = find_server(engine, engine_url)
    return Transcriber.of(find_system(path, step), device=device, overrides=overrides, server=server)


class Transcriber:
    def __init__(self, model: SpeechLlm, decoding: DecodingConfig | None = None) -> None:
        """
        :param model: the model, in evaluation mode.
        :param decoding: how to decode where a call does not say, as the training run did in its validation; None =
            the defaults.
        """
        self.model = model
        self.decoding = decoding or DecodingConfig()

    @classmethod
    def of(
        cls,
        saved: SavedSystem,
        *,
        device: str | None = None,
        overrides: dict[str, Any] | None = None,
        server: VllmServer | None = None,
    ) -> Transcriber:
        """See `load_speech_llm`.

        :param server: runs the LLM; None = it runs here.
        """
        return cls(load_model(saved, device=device, overrides=overrides, server=server), saved.decoding())

    def __getattr__(self, name: str) -> Any:
        # Earlier, a loaded system was the model itself: what is asked of that goes on.
        if name == "model":
            raise AttributeError(name)
        return getattr(self.model, name)

    @property
    def tells_times(self) -> bool:
        """Whether words can have times of their own."""
        return tells_times(self.model)

    def writes_speech(self, source_lang: str, target_lang: str | None) -> bool:
        """Whether the task of these languages is to write down the speech itself; see `Task.writes_speech`."""
        return self.model.config.prompt.task_of(source_lang, target_lang).writes_speech

    @torch.inference_mode()
    def transcribe(
        self,
        audio: Audio | Sequence[Audio],
        *,
        source_lang: str = "en",
        target_lang: str | None = None,
        decoding: DecodingConfig | None = None,
    ) -> list[str]:
        """The text of each clip, as one batch.

        :param audio: files (wav, flac, mp3, ogg and, with PyAV, what FFmpeg reads; any rate, any number of channels),
            `resolve(FILE, Path(), channel=N)` for one channel of a file, or arrays of samples at 16 kHz (one
            dimension, floats from -1 to 1); a single one counts as a list of one.
        :param target_lang: language to translate into; None = recognition.
        :param decoding: None = as the training run decoded its validation.
        :raises UserError: a file cannot be read, or is longer than the encoder's window.
        """
        return self.model.generate(self.read(audio, source_lang, target_lang), self._decoding(decoding))[0]

    @torch.inference_mode()
    def transcribe_timed(
        self,
        audio: Audio | Sequence[Audio],
        *,
        source_lang: str = "en",
        target_lang: str | None = None,
        decoding: DecodingConfig | None = None,
    ) -> list[TimedText]:
        """`transcribe` with the times of words and segments; a translation or an answer gets the times of its whole
        clip.

        :raises UserError: as `transcribe`, or the model cannot tell times.
        """
        running = RunningClips(self.model)
        batch = self.read(audio, source_lang, target_lang)
        found = running.finish(running.add(batch, self._decoding(decoding), timed=True))
        return [clip.timed for clip in found if clip.timed is not None]

    @torch.inference_mode()
    def hear(self, audio: Audio | Sequence[Audio]) -> list[str]:
        """The CTC head's own transcript of each clip, in the language of the speech: a rough text, for which the LLM
        does not run (arXiv 2411.06437).

        :raises UserError: as `transcribe`, or there is no CTC head.
        """
        batch = self.read(audio, "en", None)  # only the prompt, which is not used, has the language
        speech = self.model.listen(batch, score_frames=True)
        if self.model.ctc is None or speech.frame_logits is None or speech.frame_lengths is None:
            raise UserError(
                f"found adapter {self.model.config.adapter.name!r} without a CTC head on its frames, expected a system "
                "that was trained with model.config_overrides.ctc.weight above 0"
            )
        return self.model.ctc.texts(speech.frame_logits, speech.frame_lengths, self.model.prompts.decode)

    @torch.inference_mode()
    def ask(
        self,
        audio: Audio | Sequence[Audio],
        instruction: str,
        *,
        context: str = "",
        history: Sequence[Mapping[str, str]] = (),
        system: str = "",
        source_lang: str = "en",
        max_tokens: int = 128,
        decoding: DecodingConfig | None = None,
    ) -> list[str]:
        """The LLM's answer to an instruction about each clip, as one batch, whatever the system was trained on
        (arXiv 2310.00230, section 5).

        :param audio: as in `transcribe`.
        :param instruction: `<speech>` stands for the clip; without it `prompt.order` decides where the clip stands.
        :param context: phrases or documents, which `prompt.context` places.
        :param history: earlier turns, `{"role": "user" or "assistant", "content": TEXT}`; a user's may have `audio`, a
            file, and `<speech>` in its text.
        :param system: replaces `prompt.system`.
        :param max_tokens: most tokens of an answer.
        :param decoding: everything else; None = as the training run decoded its validation, without its guards against
            silence, which judge transcripts.
        :raises UserError: as `transcribe`, or the instruction, the context or the history cannot be used.
        """
        asks = question(instruction, context, history, system)
        batch = self.read(audio, source_lang, None, ANSWER, asks)
        return self.model.generate(batch, self.answering(max_tokens, decoding))[0]

    def answering(self, max_tokens: int, decoding: DecodingConfig | None = None) -> DecodingConfig:
        """How answers are decoded: with `max_tokens` as their limit, whatever the length of the clip. See `ask`."""
        return replace(decoding or without_guards(self.decoding), tokens_per_second=0.0, extra_tokens=max_tokens)

    def read(
        self,
        audio: Audio | Sequence[Audio],
        source_lang: str,
        target_lang: str | None,
        task: Task | None = None,
        asks: RowPrompt = NOTHING,
    ) -> SpeechTextBatch:
        """A batch for the model, on its device; each file is decoded once. See `batch_of_files`."""
        task = task or self.model.config.prompt.task_of(source_lang, target_lang)
        window = self.model.encoder.max_seconds
        batch = batch_of_files(audio, source_lang, target_lang, max_seconds=window, task=task, asks=asks)
        batch.to(next(self.model.parameters()).device)
        return batch

    def _decoding(self, given: DecodingConfig | None) -> DecodingConfig:
        if given is None:
            return self.decoding
        if given.tokens_per_second is None:
            return replace(given, tokens_per_second=self.decoding.tokens_per_second)
        return given
