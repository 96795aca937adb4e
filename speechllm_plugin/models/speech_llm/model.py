"""Joins a frozen speech encoder, a trained adapter and a frozen LLM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechllm_plugin.adapters.api import Adapter, AdapterOutput, split_earlier, stack_outputs
from speechllm_plugin.datasets.batch import SpeechTextBatch
from speechllm_plugin.encoders.api import SpeechEncoder
from speechllm_plugin.encoders.features import ClipFeatures
from speechllm_plugin.errors import UserError
from speechllm_plugin.llms.answering import Answers
from speechllm_plugin.llms.api import Llm
from speechllm_plugin.llms.decoding import DecodingConfig, Generated
from speechllm_plugin.llms.no_speech import blank_shares
from speechllm_plugin.llms.positions import check_positions
from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig, part_dtypes
from speechllm_plugin.models.speech_llm.ctc_head import CtcHead, CtcLoss
from speechllm_plugin.models.speech_llm.distillation import Distilled, distill
from speechllm_plugin.models.speech_llm.loss import SpeechLlmLoss, mix_losses
from speechllm_plugin.models.speech_llm.tuning import TunedWeights
from speechllm_plugin.pretrained import freeze
from speechllm_plugin.pretrained.part import rounds
from speechllm_plugin.prompts import PromptRenderer, RenderedPrompt
from speechllm_plugin.tensors.copies import on_device, on_host
from speechllm_plugin.tensors.masks import stack_frames


class SpeechLlm(nn.Module):
    """`y = LLM(J(P, A(S(a))))` (arXiv 2409.17044, section 2): only the adapter `A` and its CTC head are trained.

    The frozen parts are kept outside the module tree, so that `parameters()`, `state_dict()`, the optimizer, DDP and
    FSDP see only trained weights. A checkpoint then holds only the adapter, and no frozen weight is broadcast, sharded
    or set to training mode. Tuned weights of these parts are in the tree and in the checkpoint.
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
        self._head_tokens = _beginning(llm) if config.ctc.bos else []
        self.prompts = prompts
        self._frozen = (freeze(encoder), freeze(llm))
        self.features = ClipFeatures(encoder)
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
        """The precision of each frozen part, by the part's name."""
        return part_dtypes(self.config)

    @property
    def frame_rate(self) -> float:
        """Rate of the adapter's input frames, in Hz."""
        return self.encoder.frame_rate / self.config.frame_stack

    def forward(self, batch: SpeechTextBatch, *, lm: bool = True) -> SpeechLlmLoss:
        """
        :param lm: False leaves the LLM out and gives only the auxiliary losses.
        """
        targets = [self.prompts.encode_target(text) for text in batch.texts]
        # CTC and CIF need the words in spoken order, which a translation does not have.
        spoken = [clip.spoken for clip in batch]
        transcripts = [None if text is None else self.transcript_tokens(text) for text in spoken]
        speech = self.adapt(batch, transcripts)
        ctc = self._ctc_loss(speech, spoken, transcripts)
        lm_loss, distilled = self._llm_losses(batch, speech, targets) if lm else (None, None)
        token = None
        if speech.token_logits is not None and self.ctc is not None:
            token = self.ctc.token_loss(speech.token_logits, speech.lengths, spoken, transcripts)
        return mix_losses(
            self.config,
            list(map(len, targets)),
            lm=lm_loss,
            distilled=distilled,
            trained_by_llm=[speech.seqs, *(self.tuned["llm"].parameters() if "llm" in self.tuned else ())],
            ctc=ctc,
            adapter=speech.losses,
            adapter_weights=self.adapter.loss_weights,
            token=token,
        )

    def _llm_losses(
        self, batch: SpeechTextBatch, speech: AdapterOutput, targets: list[list[int]]
    ) -> tuple[Tensor, Distilled | None]:
        """The LLM's cross entropy for each clip, `[B]`, and its divergence from the LLM given the transcripts."""
        prompts = self.prompts_of(batch)
        seqs, lengths = self.join_earlier(prompts, speech)
        check_positions(self.llm, batch.ids, prompts, lengths, [len(target) for target in targets])
        states = self.llm.target_states(prompts, seqs, lengths, targets)
        cross_entropy, config = self.llm.loss_of(states, targets), self.config.distillation
        if config.weight == 0:
            return cross_entropy, None
        distilled = distill(self.llm, self.prompts, batch.clips, states, targets, config)
        self.llm.wait_for_others()
        return cross_entropy, distilled

    def transcript_tokens(self, text: str) -> list[int]:
        """The tokens of a text that CTC and CIF are trained on, without the end of the turn."""
        return [*self._head_tokens, *self.prompts.encode_target(text)[:-1]]

    def transcripts_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """`transcript_tokens` of many texts, in a fraction of the time."""
        return [[*self._head_tokens, *target[:-1]] for target in self.prompts.encode_targets(texts)]

    def adapt(
        self,
        batch: SpeechTextBatch,
        transcripts: Sequence[Sequence[int] | None] | None = None,
        *,
        score_frames: bool = False,
    ) -> AdapterOutput:
        """Turns audio into speech embeddings.

        :param transcripts: token ids of the transcripts, in training; None for a clip without one.
        :param score_frames: whether to run the CTC head, which decoding needs only for some adapters.
        """
        # In one pass, so that with FSDP all processes make the same number.
        heard = batch.with_earlier()
        features, lengths = stack_frames(*self.features.of(heard), self.config.frame_stack)
        target_lengths = None
        if transcripts is not None:
            every = [*transcripts, *[None] * (len(heard) - len(batch))]
            target_lengths = on_host(-1 if transcript is None else len(transcript) for transcript in every)
        classify = None
        if self.ctc is not None and (transcripts is not None or score_frames or self.adapter.needs_classifier):
            classify = partial(self.ctc, embed_tokens=self.llm.embed)
        output = self.adapter(features, lengths, target_lengths, classify)
        return split_earlier(output, [len(clip.earlier) for clip in batch])

    def join_earlier(
        self, prompts: Sequence[RenderedPrompt], speech: AdapterOutput, shift: int = 0
    ) -> tuple[Tensor, Tensor]:
        """The embeddings between `before` and `after` of each prompt: earlier speech, each with the words after it,
        then the clip.

        :param shift: places by which the clips alone are moved within the batch.
        :returns: `[B, T, dim]` with lengths `[B]`, on the host.
        """
        seqs, lengths = speech.seqs.roll(shift, 0), speech.lengths.roll(shift, 0)
        if not any(speech.earlier):
            return seqs, lengths
        rows = []
        for prompt, earlier, own, length in zip(prompts, speech.earlier, seqs, lengths.tolist(), strict=True):
            words = [self.llm.embed(on_device(ids, own.device, torch.long)) for ids in prompt.between]
            pieces = [piece for pair in zip(earlier, words, strict=True) for piece in pair]
            rows.append(torch.cat([*pieces, own[:length]]))
        joined = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return joined, on_host(map(len, rows))

    def _ctc_loss(
        self, speech: AdapterOutput, texts: Sequence[str | None], tokens: Sequence[Sequence[int] | None]
    ) -> CtcLoss | None:
        if self.ctc is None:
            return None
        if speech.frame_logits is None or speech.frame_lengths is None:
            raise ValueError(f"the adapter {self.config.adapter.name!r} gave no frames to the CTC head")
        return self.ctc.loss(speech.frame_logits, speech.frame_lengths, texts, tokens)

    def swapped_loss(self, batch: SpeechTextBatch) -> tuple[Tensor, Tensor, list[int]]:
        """The LLM's loss with each clip's own audio and with its neighbour's, which differ if the system listens.

        :returns: both losses for each clip in nats, `[B]`, and the target tokens of each clip.
        """
        prompts = self.prompts_of(batch)
        targets = [self.prompts.encode_target(text) for text in batch.texts]
        # As in decoding, the adapter does not get the transcripts' lengths.
        speech = self.adapt(batch)
        seqs, lengths = self.join_earlier(prompts, speech)
        check_positions(self.llm, batch.ids, prompts, lengths, [len(target) for target in targets])
        own = self.llm.loss(prompts, seqs, lengths, targets)
        other = self.llm.loss(prompts, *self.join_earlier(prompts, speech, shift=1), targets)
        return own, other, list(map(len, targets))

    def transcribe(self, audio: Any, **options: Any) -> list[str]:
        """`inference.Transcriber.transcribe`, for a model that was created and not loaded from a checkpoint."""
        from speechllm_plugin.inference.transcriber import Transcriber

        return Transcriber(self).transcribe(audio, **options)

    def generate(self, batch: SpeechTextBatch, config: DecodingConfig) -> tuple[list[str], list[Generated]]:
        """Decodes a batch; each row gives the same tokens as it would alone."""
        return self.decode(batch, self.listen(batch, score_frames=config.no_speech_blank_share is not None), config)

    def wait_for_others(self) -> None:
        """See `Llm.wait_for_others`."""
        self.llm.wait_for_others()

    def listen(self, batch: SpeechTextBatch, *, score_frames: bool = False) -> AdapterOutput:
        """`adapt` for decoding: a clip has the same vectors, to the bit, alone and in a batch.

        In half precision the shape of a batch decides roundings that can change the LLM's text. There each clip is
        taken alone, with its earlier speech.
        """
        if not (rounds(*self._frozen) or torch.is_autocast_enabled(next(self.parameters()).device.type)):
            return self.adapt(batch, score_frames=score_frames)
        return stack_outputs([self.adapt(batch.row(i), score_frames=score_frames) for i in range(len(batch))])

    def decode(
        self, batch: SpeechTextBatch, speech: AdapterOutput, config: DecodingConfig
    ) -> tuple[list[str], list[Generated]]:
        answers = Answers(self.llm, self.prompts)
        numbers = self.ask(answers, batch, speech, config)
        found = answers.finish()
        return [found[number][0] for number in numbers], [found[number][1] for number in numbers]

    def ask(
        self, answers: Answers, batch: SpeechTextBatch, speech: AdapterOutput, config: DecodingConfig
    ) -> list[int]:
        """Adds clips to those that the LLM answers, with what `listen` made of them.

        :param answers: of this system's LLM and prompts.
        :returns: the numbers of the clips: see `Answers.step`.
        :raises UserError: a value of `config` is outside its range, or a clip and its text have no room in the LLM.
        """
        shares = None
        if config.no_speech_blank_share is not None and speech.frame_logits is not None:
            assert speech.frame_lengths is not None
            shares = blank_shares(speech.frame_logits, speech.frame_lengths)
        prompts = self.prompts_of(batch)
        return answers.add(
            prompts,
            *self.join_earlier(prompts, speech),
            keys=batch.ids,
            seconds=batch.seconds,
            waveforms=batch.waveforms,
            blank_shares=shares,
            config=config,
        )

    def prompts_of(self, batch: SpeechTextBatch) -> list[RenderedPrompt]:
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
