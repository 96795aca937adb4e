"""SeamlessM4T v2 as a recogniser (arXiv 2312.05187): its speech encoder with its own text decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, PreTrainedTokenizerBase, SeamlessM4TFeatureExtractor
from transformers import SeamlessM4Tv2Config as HfSeamlessConfig

from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS, Recognized, Recognizer
from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.pretrained import Source, load_config, load_model, load_tokenizer, source_identity
from speechllm_plugin.tensors.precision import Dtype, part_dtype
from speechllm_plugin.text.languages import language_code


@dataclass(kw_only=True)
class SeamlessM4Tv2RecognizerConfig:
    path: str = "facebook/seamless-m4t-v2-large"
    """Hugging Face hub id, or a local directory in the same format, with the tokenizer."""
    dtype: Dtype = "auto"
    """Precision of weights and activations. `auto`: bfloat16 where the machine multiplies it, else float32."""


class SeamlessM4Tv2Recognizer(Recognizer):
    """One clip at a time: transformers' model lets the padding of a batch through."""

    max_seconds = None

    def __init__(self, config: SeamlessM4Tv2RecognizerConfig, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
        """:param model: transformers' `SeamlessM4Tv2ForSpeechToText`."""
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.features = SeamlessM4TFeatureExtractor()
        self._codes: dict[str, str] = {}
        # Shorter codes first: "cmn" is taken before "cmn_Hant", which is the same language.
        for code in sorted(model.generation_config.text_decoder_lang_to_code_id, key=len):
            self._codes.setdefault(language_code(code), code)

    def recognize(self, waveforms: Sequence[Tensor], languages: Sequence[str]) -> list[Recognized]:
        return [self._one(waveform, self.code(name)) for waveform, name in zip(waveforms, languages, strict=True)]

    @torch.no_grad()
    def _one(self, waveform: Tensor, code: str) -> Recognized:
        weight = self.model.get_input_embeddings().weight
        features = self.features(waveform.cpu().numpy(), sampling_rate=SAMPLE_RATE, return_tensors="pt")
        with torch.autocast(weight.device.type, enabled=False):
            output = self.model.generate(
                features.input_features.to(weight.device, weight.dtype),
                attention_mask=features.attention_mask.to(weight.device),
                tgt_lang=code,
                do_sample=False,
                num_beams=1,
            )
        # The decoder starts from the same token that ends a text.
        row = output[0, 1:].tolist()
        return Recognized(
            self.tokenizer.decode(row, skip_special_tokens=True).strip(),
            cut=self.model.generation_config.eos_token_id not in row,
        )

    def code(self, language: str) -> str:
        code = self._codes.get(language_code(language))
        if code is None:
            source = Source.of("recognizer", self.config.path)
            raise UserError(f"{source} does not know the language {language!r}")
        return code

    def identity(self) -> dict[str, Any]:
        return {"recognizer": "seamless_m4t_v2", "source": source_identity(self.config.path), **vars(self.config)}


def create_seamless_m4t_v2_recognizer(config: SeamlessM4Tv2RecognizerConfig) -> SeamlessM4Tv2Recognizer:
    source = Source.of("recognizer", config.path)
    load_config(source, HfSeamlessConfig)
    model = load_model(AutoModelForSpeechSeq2Seq, source, dtype=part_dtype(config))
    if not hasattr(model.generation_config, "text_decoder_lang_to_code_id"):
        raise UserError(
            f"{source.key}: found no `text_decoder_lang_to_code_id` in the generation_config.json of {config.path}, "
            "expected the file as Meta's repository has it: it tells how the model is told the language"
        )
    return SeamlessM4Tv2Recognizer(config, model, load_tokenizer(source))


RECOGNIZERS.register("seamless_m4t_v2", SeamlessM4Tv2RecognizerConfig, create_seamless_m4t_v2_recognizer)
