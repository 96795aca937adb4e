"""Configuration and named architectures of the `speech_llm` family."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Literal

from fairseq2.runtime.config_registry import ConfigRegistrar
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.utils.validation import Validatable, ValidationResult

from speechllm_plugin.adapters.api import ADAPTERS
from speechllm_plugin.encoders.api import ENCODERS
from speechllm_plugin.llms.api import LLMS
from speechllm_plugin.prompts import PromptConfig

SPEECH_LLM_FAMILY = "speech_llm"


@dataclass(kw_only=True)
class PartSection:
    """Chooses a registered part."""

    name: str
    """Its registered name."""
    config: object = None
    """Its own configuration: a mapping of the fields of its configuration dataclass. None = all defaults."""


@dataclass(kw_only=True)
class CtcConfig(Validatable):
    """An auxiliary CTC loss (Graves et al. 2006) that ties the adapter's frames to the transcript."""

    weight: float = 0.1
    """Weight beside the LLM's loss (0.1 in arXiv 2409.17044). 0 = no CTC."""
    classifier: Literal["linear", "llm_embedding", "sentencepiece"] = "linear"
    """`linear`: a linear layer over the LLM tokenizer's vocabulary, as published. `llm_embedding`: the LLM's own
    embedding table, restricted to the tokens of the training text, on frames that the adapter has taken to the LLM's
    space: it puts the speech where the LLM's word embeddings are, and small systems converge several times faster.
    `sentencepiece`: a linear layer over the pieces of `vocabulary`, hundreds of times cheaper than an LLM's tokens."""
    vocabulary: str | None = None
    """For `sentencepiece`: a model file, as `speechllm manifest vocabulary` writes it."""
    vocabulary_size: int | None = None
    """Pieces of `vocabulary`, filled in: a checkpoint decodes without the file."""
    align_steps: int = 0
    """The first steps train on CTC alone, without running the LLM."""

    def validate(self) -> ValidationResult:
        result = ValidationResult()
        if self.weight < 0:
            result.add_error(f"`weight` must be at least 0, but is {self.weight} instead.")
        if self.align_steps < 0:
            result.add_error(f"`align_steps` must be at least 0, but is {self.align_steps} instead.")
        if self.classifier == "sentencepiece" and self.vocabulary is None:
            result.add_error("`vocabulary` must name a sentencepiece model where `classifier` is 'sentencepiece'.")
        if self.align_steps > 0 and self.weight == 0:
            result.add_error("`align_steps` needs a `weight` above 0.")
        return result


@dataclass(kw_only=True)
class SpeechLlmConfig:
    encoder: PartSection = field(default_factory=lambda: PartSection(name="whisper"))
    """The frozen speech encoder."""
    adapter: PartSection = field(default_factory=lambda: PartSection(name="base"))
    """What is trained."""
    llm: PartSection = field(default_factory=lambda: PartSection(name="causal"))
    """The frozen LLM."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """Rendered the same way in training and in decoding, and kept in the checkpoint."""
    ctc: CtcConfig = field(default_factory=lambda: CtcConfig(weight=0.0))
    """Auxiliary CTC loss."""

    def resolve(self) -> None:
        """Fills in every part's defaults and checks its keys, so that a saved configuration tells everything."""
        self.encoder.config = ENCODERS.config(self.encoder.name, self.encoder.config)
        self.adapter.config = ADAPTERS.config(self.adapter.name, self.adapter.config)
        self.llm.config = LLMS.config(self.llm.name, self.llm.config)
        for part in (self.encoder.config, self.llm.config):
            # A checkpoint is loaded from anywhere, not only from where it was trained.
            if (path := getattr(part, "path", None)) is not None and Path(path).is_dir():
                setattr(part, "path", str(Path(path).resolve()))  # noqa: B010 (parts' classes are their own)


# An architecture is `encoder.llm.adapter`: composed from these three tables, never written out.
_ENCODERS = {
    "whisper_large_v3": ("whisper", {"path": "openai/whisper-large-v3"}),
    "whisper_tiny_en": ("whisper", {"path": "openai/whisper-tiny.en", "dtype": "float32"}),
}
_LLMS = {
    "mistral_7b": ("causal", {"path": "mistralai/Mistral-7B-Instruct-v0.3"}),
    "llama31_8b": ("causal", {"path": "meta-llama/Llama-3.1-8B-Instruct"}),
    "smollm2_135m": ("causal", {"path": "HuggingFaceTB/SmolLM2-135M-Instruct"}),
}
_ADAPTERS = ("base", "mlp")


def arch_names() -> list[str]:
    return [".".join(names) for names in product(_ENCODERS, _LLMS, _ADAPTERS)]


def arch_config(name: str) -> SpeechLlmConfig:
    """The configuration of `encoder.llm.adapter`, for instance `whisper_large_v3.llama31_8b.base`."""
    encoder, llm, adapter = name.split(".")
    return SpeechLlmConfig(
        encoder=PartSection(name=_ENCODERS[encoder][0], config=dict(_ENCODERS[encoder][1])),
        adapter=PartSection(name=adapter),
        llm=PartSection(name=_LLMS[llm][0], config=dict(_LLMS[llm][1])),
    )


def register_speech_llm_archs(container: DependencyContainer) -> None:
    arch = ConfigRegistrar(container, SpeechLlmConfig)
    for name in arch_names():
        arch(name)(lambda name=name: arch_config(name))
