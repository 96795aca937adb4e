"""Joins a frozen speech encoder, a trained adapter and a frozen LLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from speechllm_plugin.adapters.api import Adapter, AdapterOutput, stack_outputs
from speechllm_plugin.alignment import TimedText, check_timestamps, time_texts
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.datasets.feature_masks import mask_features
from speechllm_plugin.datasets.files import Audio, batch_of_files
from speechllm_plugin.encoders.apart import encode_apart
from speechllm_plugin.encoders.api import SpeechEncoder, too_long
from speechllm_plugin.encoders.cache import FeatureCache
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.answering import answer
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated, without_guards
from speechllm_plugin.llms.no_speech import blank_shares
from speechllm_plugin.llms.positions import check_positions
from speechllm_plugin.masks import stack_frames
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, part_dtypes
from speechllm_plugin.models.speech_llm.ctc import CtcHead, CtcLoss
from speechllm_plugin.models.speech_llm.distillation import Distilled, distill
from speechllm_plugin.models.speech_llm.loss import SpeechLlmLoss
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.parts import rounds
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.prompts import PromptRenderer, RenderedPrompt
from speechllm_plugin.tasks.answer import ANSWER
from speechllm_plugin.tasks.api import Task
from speechllm_plugin.tasks.row_prompt import NOTHING, RowPrompt, question


class SpeechLlm(nn.Module):
    """`y = LLM(J(P, A(S(a))))` (arXiv 2409.17044, section 2): only the adapter `A` and its CTC head are trained.

    The frozen parts are kept outside the module tree: `parameters()`, `state_dict()`, the optimizer, DDP and FSDP see
    what is trained and nothing else, so a checkpoint holds the adapter only and no frozen weight is ever broadcast,
    sharded or set to training mode. What is tuned of these parts is in the tree, too, and in the checkpoint.
    """

    def __init__(
        self,
        config: SpeechLlmConfig,
        encoder: SpeechEncoder,
        adapter: Adapter,
        llm: Llm,
        ctc: CtcHead | None,
        prompts: PromptRenderer,
    ) -> None:
        super().__init__()
        self.config = config
        self.adapter = adapter
        self.ctc = ctc
        self._ctc_weight = config.ctc.weight or 0.0
        adapter.lacks_targets = config.ctc.no_transcript == "leave_out"
        self._head_tokens = _beginning(llm) if config.ctc.bos else []
        self.prompts = prompts
        self.feature_cache: FeatureCache | None = None
        self.decoding = DecodingConfig()
        """As the training run decodes: what `transcribe` does of its own accord, and where a length limit is from."""
        self._frozen = (freeze(encoder), freeze(llm))
        self.tuned = nn.ModuleDict()
        """The trained weights of the "encoder" and of the "llm", where there are any."""
        for name, part, tuning in (("encoder", encoder, config.encoder_tuning), ("llm", llm, config.llm_tuning)):
            if tuning.lora_rank > 0 or tuning.unfreeze:
                self.tuned[name] = TunedWeights(part, tuning, f"{name}_tuning")

    @property
    def encoder(self) -> SpeechEncoder:
        return self._frozen[0]

    @property
    def llm(self) -> Llm:
        return self._frozen[1]

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> SpeechLlm:
        # `model.to(device)` moves the whole system.
        super()._apply(fn, recurse)
        for part in self._frozen:
            part._apply(fn)
        for weights in self.tuned.values():
            assert isinstance(weights, TunedWeights)
            weights.tie()
        return self

    @property
    def precision(self) -> dict[str, str]:
        """What each frozen part computes in, by its name."""
        return part_dtypes(self.config)

    @property
    def frame_rate(self) -> float:
        """Of the frames that the adapter takes, in Hz."""
        return self.encoder.frame_rate / self.config.frame_stack

    def forward(self, batch: SpeechTextBatch, *, lm: bool = True) -> SpeechLlmLoss:
        """
        :param lm: False leaves the LLM out: the auxiliary losses alone.
        """
        targets = [self.prompts.encode_target(text) for text in batch.texts]
        # Frames follow the words as they are spoken, which a translation does not.
        spoken = [clip.spoken for clip in batch]
        transcripts = [None if text is None else self.transcript_tokens(text) for text in spoken]
        speech = self.adapt(batch, transcripts)
        ctc = self._ctc_loss(speech, spoken, transcripts)
        num_targets = sum(map(len, targets))
        if lm:
            prompts = self._prompts(batch)
            check_positions(self.llm, batch.ids, prompts, speech.lengths, [len(target) for target in targets])
            states = self.llm.target_states(prompts, speech.seqs, speech.lengths, targets)
            lm_loss, scale = self.llm.loss_of(states, targets), 1.0
            distilled = self._distill(batch, states, targets)
            total = lm_loss.sum() if distilled is None else self._mixed(lm_loss, distilled)
        else:
            # CTC has weight 1 and the others keep their proportion to it. The zero gives a gradient to the parameters
            # that only the LLM's loss trains: data parallelism waits for one from each.
            untouched = [speech.seqs, *(self.tuned["llm"].parameters() if "llm" in self.tuned else ())]
            zero = 0.0 * sum(values.float().sum() for values in untouched)
            lm_loss, distilled, total, scale = None, None, zero, 1.0 / self._ctc_weight
        by_batch = self.config.loss_mean == "batches"
        if by_batch:
            total = total / num_targets
        if ctc is not None:
            total = total + scale * self._ctc_weight * (ctc.clip_mean if by_batch else ctc.loss)
        # Clip i with n_i target tokens adds n_i * loss_i: divided by sum(n_i), as all losses are, that is a mean of
        # the clips' losses, which is how they are published.
        tokens = torch.tensor([len(target) for target in targets], device=speech.lengths.device)
        adapter_losses = {name: (loss * tokens).sum() for name, loss in speech.losses.items()}
        for name, loss in (speech.losses if by_batch else adapter_losses).items():
            total = total + scale * self.adapter.loss_weights[name] * (loss.mean() if by_batch else loss)
        token = None
        if speech.token_logits is not None and self.ctc is not None:
            token = self.ctc.token_loss(speech.token_logits, speech.lengths, spoken, transcripts)
            total = total + scale * self.adapter.loss_weights["token"] * (token.clip_mean if by_batch else token.loss)
        count = 1 if by_batch else num_targets
        return SpeechLlmLoss(total, lm_loss, list(map(len, targets)), count, ctc, adapter_losses, token, distilled)

    def transcript_tokens(self, text: str) -> list[int]:
        """What CTC and CIF are trained on: the text's tokens, without the end of the turn."""
        return [*self._head_tokens, *self.prompts.encode_target(text)[:-1]]

    @torch.inference_mode()
    def check_room(self, batch: SpeechTextBatch) -> None:
        """Whether clips and their texts have room in the LLM, for one line before training in place of one hours later.

        :raises UserError: see `check_positions`.
        """
        if self.llm.positions is None:
            return
        prompts, texts = self._prompts(batch), [len(self.prompts.encode_target(text)) for text in batch.texts]
        # An adapter makes at most one vector a frame: with room for that, the clip need not be encoded.
        frames = [self.frame_rate * max(seconds, self.encoder.max_seconds or 0.0) + 1 for seconds in batch.seconds]
        words = [len(prompt.before) + len(prompt.after) + text for prompt, text in zip(prompts, texts, strict=True)]
        if max(most + others for most, others in zip(frames, words, strict=True)) > self.llm.positions.limit:
            check_positions(self.llm, batch.ids, prompts, self.listen(batch).lengths, texts)

    def adapt(
        self,
        batch: SpeechTextBatch,
        transcripts: Sequence[Sequence[int] | None] | None = None,
        *,
        score_frames: bool = False,
    ) -> AdapterOutput:
        """Audio to speech embeddings.

        :param transcripts: token ids of what is said, in training; None for a clip of which nothing tells.
        :param score_frames: runs the CTC head, which decoding leaves out where the adapter does without.
        """
        features, lengths = stack_frames(*self.encode(batch), self.config.frame_stack)
        target_lengths = None
        if transcripts is not None:
            target_lengths = torch.tensor(
                [-1 if transcript is None else len(transcript) for transcript in transcripts], device=lengths.device
            )
        classify = None
        if self.ctc is not None and (transcripts is not None or score_frames or self.adapter.needs_classifier):
            classify = partial(self.ctc, embed_tokens=self.llm.embed)
        return self.adapter(features, lengths, target_lengths, classify)

    def _ctc_loss(
        self, speech: AdapterOutput, texts: Sequence[str | None], tokens: Sequence[Sequence[int] | None]
    ) -> CtcLoss | None:
        if self.ctc is None:
            return None
        if speech.frame_logits is None or speech.frame_lengths is None:
            raise ValueError(f"the adapter {self.config.adapter.name!r} gave no frames to the CTC head")
        return self.ctc.loss(speech.frame_logits, speech.frame_lengths, texts, tokens)

    def _distill(self, batch: SpeechTextBatch, states: Tensor, targets: list[list[int]]) -> Distilled | None:
        config = self.config.distillation
        if config.weight == 0:
            return None
        return distill(self.llm, self.prompts, batch.clips, states, targets, config.temperature)

    def _mixed(self, cross_entropy: Tensor, distilled: Distilled) -> Tensor:
        """
        :param cross_entropy: of each clip, `[B]`.
        """
        config = self.config.distillation
        own = torch.zeros(len(cross_entropy), dtype=torch.bool)
        own[distilled.rows] = True
        taught = cross_entropy * torch.where(own, 1.0 - config.weight, 1.0).to(cross_entropy.device)
        return taught.sum() + config.weight * config.temperature**2 * distilled.divergence.sum()

    def swapped_loss(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor, list[int]]:
        """The LLM's loss with each clip's own audio and with its neighbour's: a system that listens tells them apart.

        :returns: both for each clip in nats, `[B]`, and the target tokens of each.
        """
        prompts = self._prompts(batch)
        targets = [self.prompts.encode_target(text) for text in batch.texts]
        # As in decoding: the adapter does not know the transcripts' lengths.
        speech = self.adapt(batch)
        check_positions(self.llm, batch.ids, prompts, speech.lengths, [len(target) for target in targets])
        own = self.llm.loss(prompts, speech.seqs, speech.lengths, targets)
        other = self.llm.loss(prompts, speech.seqs.roll(1, 0), speech.lengths.roll(1, 0), targets)
        return own, other, list(map(len, targets))

    def generate(self, batch: SpeechTextBatch, config: DecodingConfig) -> tuple[list[str], list[Generated]]:
        """Decodes a batch; each row gives the same tokens as it would alone."""
        return self.decode(batch, self.listen(batch, score_frames=config.no_speech_blank_share is not None), config)

    def listen(self, batch: SpeechTextBatch, *, score_frames: bool = False) -> AdapterOutput:
        """`adapt`, for decoding: the same vectors of a clip to the bit, alone and in a batch.

        Where something computes in half precision, the shape of a batch decides roundings that the LLM can tell: each
        clip is taken alone.
        """
        if not (rounds(*self._frozen) or torch.is_autocast_enabled(next(self.parameters()).device.type)):
            return self.adapt(batch, score_frames=score_frames)
        return stack_outputs([self.adapt(batch.row(i), score_frames=score_frames) for i in range(len(batch))])

    def decode(
        self, batch: SpeechTextBatch, speech: AdapterOutput, config: DecodingConfig
    ) -> tuple[list[str], list[Generated]]:
        if config.tokens_per_second is None:
            config = replace(config, tokens_per_second=self.decoding.tokens_per_second)
        shares = None
        if config.no_speech_blank_share is not None and speech.frame_logits is not None:
            assert speech.frame_lengths is not None
            shares = blank_shares(speech.frame_logits, speech.frame_lengths)
        return answer(
            self.llm,
            self.prompts,
            self._prompts(batch),
            speech.seqs,
            speech.lengths,
            keys=batch.ids,
            seconds=batch.seconds,
            waveforms=batch.waveforms,
            blank_shares=shares,
            config=config,
        )

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
            dimension, floats from -1 to 1); one alone is a list of one.
        :param target_lang: language to translate into; None = recognition.
        :param decoding: None = as the training run decoded its validation.
        :raises UserError: a file cannot be read, or is longer than the encoder's window.
        """
        return self.generate(self.read(audio, source_lang, target_lang), decoding or self.decoding)[0]

    @torch.inference_mode()
    def transcribe_timed(
        self,
        audio: Audio | Sequence[Audio],
        *,
        source_lang: str = "en",
        target_lang: str | None = None,
        decoding: DecodingConfig | None = None,
    ) -> list[TimedText]:
        """`transcribe`, with the times of words and segments; a translation or an answer has those of its whole clip.

        :raises UserError: as `transcribe`, or the model cannot tell times.
        """
        batch = self.read(audio, source_lang, target_lang)
        speech = self.listen(batch, score_frames=True)
        if any(clip.task.writes_speech for clip in batch):
            check_timestamps(self, speech)
        return time_texts(self, batch, speech, self.decode(batch, speech, decoding or self.decoding)[0])

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
        """What the LLM answers to an instruction about each clip, as one batch, whatever the system was trained on
        (arXiv 2310.00230, section 5).

        :param audio: as in `transcribe`.
        :param instruction: with `<speech>` in the place of the clip, or without: `prompt.order` then places it.
        :param context: phrases or documents, for `prompt.context`.
        :param history: earlier turns, `{"role": "user" or "assistant", "content": TEXT}`.
        :param system: in place of `prompt.system`.
        :param max_tokens: the most that an answer has.
        :param decoding: all else; None = as the training run decoded its validation, without its guards against
            silence, which tell a transcript that was made up.
        :raises UserError: as `transcribe`, or the instruction, the context or the history is not of use.
        """
        asks = question(instruction, context, history, system)
        config = replace(decoding or without_guards(self.decoding), tokens_per_second=0.0, extra_tokens=max_tokens)
        return self.generate(self.read(audio, source_lang, None, ANSWER, asks), config)[0]

    def read(
        self,
        audio: Audio | Sequence[Audio],
        source_lang: str,
        target_lang: str | None,
        task: Task | None = None,
        asks: RowPrompt = NOTHING,
    ) -> SpeechTextBatch:
        """A batch for `generate`; see `batch_of_files`."""

        def check(name: str, seconds: float) -> None:
            check_duration(name, seconds, self.encoder)

        task = task or self.config.prompt.task_of(source_lang, target_lang)
        batch = batch_of_files(audio, source_lang, target_lang, check, task=task, asks=asks)
        batch.to(next(self.parameters()).device)
        return batch

    def encode(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor]:
        """Encoder features `[B, T, C]` with lengths, from the cache where it has them; masked as the clips say."""
        features, lengths = self._unmasked(batch)
        return mask_features(features, lengths, [clip.masks for clip in batch], self.encoder.frame_rate), lengths

    def _unmasked(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor]:
        if self.feature_cache is None:
            waveforms = [batch.waveform(i) for i in range(len(batch))]
            padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
            lengths = torch.tensor([len(waveform) for waveform in waveforms], device=padded.device)
            features, lengths = self.encoder(padded, lengths)
            # The adapter computes in float32, or in what autocast says, whatever the encoder computed in.
            return features.float(), lengths
        rows = self._cached_features(self.feature_cache, batch)
        features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=features.device)
        return features, lengths

    def _cached_features(self, cache: FeatureCache, batch: SpeechTextBatch) -> list[Tensor]:
        """Encodes the clips that the cache lacks each on its own, so that what is stored never depends on a batch."""
        rows = list(batch.features)
        if missing := [i for i, features in enumerate(rows) if features is None]:
            encoded = encode_apart(self.encoder, [batch.waveform(i) for i in missing])
            for i, features in zip(missing, encoded, strict=True):
                rows[i] = cache.put(batch.clips[i].audio_key, features)
        return [features.float() for features in rows if features is not None]

    def _prompts(self, batch: SpeechTextBatch) -> list[RenderedPrompt]:
        return [
            self.prompts.render(clip.source_lang, clip.target_lang, clip.task, clip.asks, clip.draw) for clip in batch
        ]


def _beginning(llm: Llm) -> list[int]:
    """
    :raises UserError: the LLM's tokenizer has no beginning of the sequence.
    """
    if llm.tokenizer.bos_token_id is None:
        raise UserError("ctc.bos: found true, expected false: the LLM's tokenizer has no beginning of the sequence")
    return [llm.tokenizer.bos_token_id]


def check_duration(name: str, seconds: float, encoder: SpeechEncoder) -> None:
    """Refuses what the encoder would have to cut: nothing is ever truncated in silence."""
    if encoder.max_seconds is not None and seconds > encoder.max_seconds:
        raise UserError(f"{name}: {too_long(seconds, encoder.max_seconds)}")
