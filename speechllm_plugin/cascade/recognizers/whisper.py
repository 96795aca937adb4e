"""Whisper as a recogniser (arXiv 2212.04356): its encoder with its own decoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, PreTrainedTokenizerBase, WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils import logging

from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS, Recognized, Recognizer
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import Source, load_config, load_model, load_tokenizer, source_identity
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.text.languages import language_code

# Whisper has codes of its own, such as "jw" for Javanese.
_CODES = {language_code(code): code for code in LANGUAGES}


@dataclass(kw_only=True)
class WhisperRecognizerConfig:
    path: str = "openai/whisper-large-v3"
    """Hugging Face hub id, or a local directory in the same format, with the tokenizer."""
    dtype: Dtype = "auto"
    """Precision of weights and activations. `auto`: bfloat16 where the machine multiplies it, else float32."""


class WhisperRecognizer(Recognizer):
    max_seconds = 30.0

    def __init__(self, config: WhisperRecognizerConfig, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """:param model: transformers' `WhisperForConditionalGeneration`."""
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.features = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)

    @torch.no_grad()
    def recognize(self, waveforms: Sequence[Tensor], languages: Sequence[str]) -> list[Recognized]:
        codes = [self.code(language) for language in languages]
        # Multilingual models are told the language and the task; English-only models have no tokens for them.
        told = {"language": codes, "task": "transcribe"} if self.model.generation_config.is_multilingual else {}
        weight = self.model.get_input_embeddings().weight
        features = self.features(
            [waveform.cpu().numpy() for waveform in waveforms],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            return_attention_mask=True,
            device=str(weight.device),
        )
        with torch.autocast(weight.device.type, enabled=False), _quiet():
            output = self.model.generate(
                features.input_features.to(weight.device, weight.dtype),
                attention_mask=features.attention_mask.to(weight.device),
                do_sample=False,
                num_beams=1,
                return_dict_in_generate=True,
                **told,
            )
        end = self.model.generation_config.eos_token_id
        rows = output["sequences"].tolist()
        return [
            Recognized(self.tokenizer.decode(row, skip_special_tokens=True).strip(), cut=end not in row) for row in rows
        ]

    def code(self, language: str) -> str:
        source = Source.of("recognizer", self.config.path)
        if not self.model.generation_config.is_multilingual:
            if language_code(language) != "en":
                raise UserError(f"{source} knows English only, found speech in {language!r}")
            return "en"
        code = _CODES.get(language_code(language))
        if f"<|{code}|>" not in self.model.generation_config.lang_to_id:
            raise UserError(f"{source} does not know the language {language!r}")
        return str(code)

    def identity(self) -> dict[str, Any]:
        return {"recognizer": "whisper", "source": source_identity(self.config.path), **vars(self.config)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences warnings: transformers' generation warns of settings that it derived itself from Whisper's."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def create_whisper_recognizer(config: WhisperRecognizerConfig) -> WhisperRecognizer:
    source = Source.of("recognizer", config.path)
    load_config(source, WhisperConfig)
    model = load_model(AutoModelForSpeechSeq2Seq, source, dtype=part_dtype(config))
    if not hasattr(model.generation_config, "is_multilingual"):
        raise UserError(
            f"{source.key}: found no `is_multilingual` in the generation_config.json of {config.path}, expected the "
            "file as OpenAI's repositories have it: it tells how the model is told the language"
        )
    return WhisperRecognizer(config, model, load_tokenizer(source))


RECOGNIZERS.register("whisper", WhisperRecognizerConfig, create_whisper_recognizer)
