"""Configuration and named architectures of the `speech_llm` family. Imports no torch until a part is asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, Literal

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.errors import UserError
from speechllm_plugin.models.speech_llm.archs import ADAPTER_ARCHS, ENCODER_ARCHS, LLM_ARCHS, PartArch
from speechllm_plugin.models.speech_llm.distillation_config import DistillationConfig
from speechllm_plugin.models.speech_llm.tuning_config import TuningConfig
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.registry import ADAPTERS, ENCODERS, LLMS, Registry

SPEECH_LLM_FAMILY = "speech_llm"
DEFAULT_ARCH = "whisper_large_v3.llama31_8b.base"
"""Default architecture of the training recipe."""

PRETRAINED: dict[str, Registry[Any]] = {"encoder": ENCODERS, "llm": LLMS}
"""The kinds of pretrained parts, each under its key in the configuration."""


@dataclass(kw_only=True)
class PartSection:
    """Chooses a registered part."""

    name: str
    """Registered name of the part."""
    config: object = None
    """The part's own configuration: a mapping of the fields of its configuration dataclass. None = all defaults."""
    arch: str | None = None
    """For an encoder or an LLM: the name of the published model whose shape the checkpoint under `config.path` must
    have. None = any shape."""
    weights: str | None = None
    """For an encoder or an LLM: identity of its weights (`pretrained.identity`), filled in. A trained checkpoint
    refuses an encoder or LLM with other weights."""


@dataclass(kw_only=True)
class CtcConfig(Checked):
    """An auxiliary CTC loss (Graves et al. 2006) that ties the adapter's frames to the transcript."""

    weight: float | None = None
    """Weight beside the LLM's loss. 0 = no CTC. None = 0.1 for the adapters that are published with it, `cif` and `ctc`
    (arXiv 2409.17044), 0 for the others; filled in."""
    classifier: Literal["linear", "llm_embedding", "sentencepiece"] = "linear"
    """`linear`: a linear layer over the LLM tokenizer's vocabulary, as published. `llm_embedding`: the LLM's own
    embedding table, restricted to the tokens of the training text, on frames that the adapter has taken to the LLM's
    space. It pulls the speech to the LLM's word embeddings, and small systems converge several times faster.
    `sentencepiece`: a linear layer over the pieces of `vocabulary`, hundreds of times cheaper than an LLM's tokens."""
    vocabulary: str | None = None
    """For `sentencepiece`: a model file, as `speechllm manifest vocabulary` writes it."""
    vocabulary_size: int | None = None
    """Number of pieces in `vocabulary`, filled in, so that a checkpoint decodes without the file."""
    vocabulary_sha256: str | None = None
    """SHA-256 of the file `vocabulary` in hexadecimal, filled in: a vocabulary that is trained again has other
    labels."""
    bos: bool = False
    """Whether the tokenizer's beginning of the sequence comes first in a transcript's labels, and counts among the
    tokens that `cif` aims at, as in the code of the authors of arXiv 2409.17044. For the classifier `linear`."""
    no_transcript: Literal["refuse", "leave_out"] = "refuse"
    """What happens to a training row without a transcript: a translation or an answer without `src_text`. `refuse`: it
    is an error. `leave_out`: it is counted, and trains with the LLM's loss alone, without those of CTC and CIF."""
    align_steps: int = 0
    """Number of first steps without the LLM. They train on the CTC loss with weight 1, and on the adapter's own losses
    in proportion."""

    def problems(self) -> Iterator[str]:
        if self.weight is not None and not (math.isfinite(self.weight) and self.weight >= 0):
            yield f"weight: found {self.weight}, expected finite and at least 0"
        if self.align_steps < 0:
            yield f"align_steps: found {self.align_steps}, expected at least 0"
        if self.bos and self.classifier != "linear":
            yield f"bos: found true with the classifier {self.classifier!r}, expected false, or the classifier 'linear'"
        if self.classifier == "sentencepiece" and self.vocabulary is None:
            yield "vocabulary: found null with the classifier 'sentencepiece', expected the file of a model"
        if self.classifier != "sentencepiece":
            for name in ("vocabulary", "vocabulary_size", "vocabulary_sha256"):
                if (value := getattr(self, name)) is not None:
                    yield (
                        f"{name}: found {value!r} with the classifier {self.classifier!r}, expected null, or the "
                        "classifier 'sentencepiece'"
                    )
        if self.weight == 0:
            for name, unused in (("align_steps", 0), ("classifier", "linear"), ("vocabulary", None)):
                if (value := getattr(self, name)) != unused:
                    expected = "null" if unused is None else repr(unused)
                    yield f"{name}: found {value!r} with a weight of 0, expected {expected}, or a weight above 0"


@dataclass(kw_only=True)
class SpeechLlmConfig:
    encoder: PartSection = field(default_factory=lambda: PartSection(name="whisper"))
    """The frozen speech encoder."""
    frame_stack: int = 1
    """Encoder frames that are concatenated into one before the adapter. 1 = as published. 5 turns Whisper's 50 Hz into
    10: a fifth of the adapter's work, and CTC converges in far fewer steps."""
    adapter: PartSection = field(default_factory=lambda: PartSection(name="base"))
    """The adapter, which is trained."""
    output_scale: Literal["embedding", "one"] = "one"
    """Initial gain of the LayerNorm at the adapter's end. `one`: the usual start of a LayerNorm, as published; the norm
    of a speech vector is then 10 to 100 times that of a word's embedding. `embedding`: the root mean square of the
    LLM's embeddings, with which the CTC loss of `llm_embedding` falls faster (benchmarks/results/output-scale.md)."""
    llm: PartSection = field(default_factory=lambda: PartSection(name="causal"))
    """The frozen LLM."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """The prompt, which is the same in training and in decoding, and is kept in the checkpoint."""
    ctc: CtcConfig = field(default_factory=CtcConfig)
    """Auxiliary CTC loss."""
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    """Distillation from the LLM given the transcript to the LLM given the speech."""
    loss_mean: Literal["tokens", "batches"] = "tokens"
    """How the losses of a step are averaged. `tokens`: the sum of each loss is divided by the target tokens of all
    batches of all processes, so that a token weighs the same in whichever batch it is. `batches`: the mean of each
    batch's own means, as in the code of the authors of arXiv 2409.17044. The LLM's loss is then averaged over its
    tokens, CTC's over each clip's labels and then over clips, the adapter's over clips."""
    encoder_tuning: TuningConfig = field(default_factory=TuningConfig)
    """Which weights of the encoder are trained, too."""
    llm_tuning: TuningConfig = field(default_factory=TuningConfig)
    """Which weights of the LLM are trained, too."""
    other_weights: bool = False
    """Whether a checkpoint may be used with an encoder or LLM of other weights than it was trained with: a warning
    instead of an error."""

    def check(self) -> None:
        """
        :raises UserError: a value is wrong for any choice of parts.
        """
        if self.frame_stack < 1:
            raise UserError(f"frame_stack: found {self.frame_stack}, expected at least 1")
        self.prompt.check()
        self.ctc.check("ctc")
        self.distillation.check("distillation")
        self.encoder_tuning.check("encoder_tuning")
        self.llm_tuning.check("llm_tuning")
        if self.adapter.arch is not None:
            raise UserError(f"adapter.arch: found {self.adapter.arch!r}, expected null: no adapter is published")

    def resolve(self) -> None:
        """Fills in the defaults of every part and checks its keys, so that a saved configuration is complete."""
        self.check()
        self.encoder.config = ENCODERS.config(self.encoder.name, self.encoder.config)
        self.adapter.config = ADAPTERS.config(self.adapter.name, self.adapter.config)
        self.llm.config = LLMS.config(self.llm.name, self.llm.config)
        adapter: Any = ADAPTERS.get(self.adapter.name).build  # its class, or a function of another package
        if getattr(adapter, "needs_classifier", False) and self.ctc.weight == 0:
            raise UserError(
                f"ctc.weight: found 0, expected more (0.1 is published): the adapter {self.adapter.name!r} compresses "
                "by what the CTC head says of the frames"
            )
        if getattr(self.adapter.config, "token_weight", 0) > 0:
            if self.ctc.weight == 0:
                raise UserError("ctc.weight: found 0, expected more: adapter.config.token_weight needs the CTC head")
            if self.ctc.classifier == "sentencepiece":
                raise UserError(
                    "ctc.classifier: found 'sentencepiece', expected 'linear' or 'llm_embedding': with "
                    "adapter.config.token_weight each vector stands for one token of the LLM"
                )
        if self.ctc.weight is None:
            self.ctc.weight = getattr(adapter, "ctc_weight", 0.0)
            for problem in self.ctc.problems():
                raise UserError(f"ctc.{problem} (it is 0 with the adapter {self.adapter.name!r} unless set)")
        for part in (self.encoder.config, self.llm.config):
            # An absolute path, since a checkpoint may be loaded from another folder than the one of its training.
            if (path := getattr(part, "path", None)) is not None and Path(path).is_dir():
                setattr(part, "path", str(Path(path).resolve()))  # noqa: B010 (parts' classes are their own)


def part_dtypes(config: SpeechLlmConfig) -> dict[str, str]:
    """The precision of encoder and LLM, by part; one whose configuration has no `dtype` is left out."""
    dtypes = {}
    for name, part in (("encoder", config.encoder.config), ("llm", config.llm.config)):
        dtype = part.get("dtype") if isinstance(part, dict) else getattr(part, "dtype", None)  # read, or resolved
        if dtype is not None:
            dtypes[name] = str(dtype)
    return dtypes


# Architectures `encoder.llm.adapter` are composed of the known encoders, LLMs and adapters, and never written out.
GRID = (
    ("whisper_large_v3", "seamless_m4t_v2"),
    ("mistral_7b", "llama31_8b"),
    ("base", "conv", "cif", "ctc", "wlq_former"),
)
"""Encoders, LLMs and adapters of arXiv 2409.17044: 20 systems."""
SLM = (("w2v_bert", *GRID[0]), ("mt0_xxl_mt",), ("slm",))
"""SLM (arXiv 2310.00230); `w2v_bert` and the other encoders stand in for its encoder, which is not public."""
AUTHORS = (*GRID[:2], ("cif_authors", "ctc_authors", "wlq_former_authors"))
"""The systems of arXiv 2409.17044 for which its authors' code has other adapters than the paper."""

# Every composition can be used; lists show only these.
_LISTED = (
    GRID,
    (*GRID[:2], ("subsample", "mlp")),
    SLM,
    AUTHORS,
    (SLM[0], ("mt0_small", "mt0_xl", "mt0_xxl_mt"), ("subsample",)),
    (("whisper_large_v3_turbo", "w2v_bert"), ("llama31_8b",), ("base", "mlp")),
    (
        ("whisper_large_v3",),
        ("llama32_1b", "llama32_3b", "qwen25_7b", "qwen3_06b", "qwen3_8b", "gemma2_9b", "gemma3_1b"),
        ("base", "mlp"),
    ),
    (("whisper_tiny_en", "whisper_base"), ("smollm2_135m",), (*GRID[2], "subsample", "mlp")),
)


def arch_names() -> list[str]:
    """The architectures that lists show, each once."""
    return list(dict.fromkeys(".".join(names) for tables in _LISTED for names in product(*tables)))


def all_arch_names() -> list[str]:
    """Every composition of known parts and of parts that other packages register."""
    return [".".join(names) for names in product(*_names())]


def _names() -> tuple[list[str], list[str], list[str]]:
    """Names of encoders, LLMs and adapters."""
    return (
        [*ENCODER_ARCHS, *ENCODERS.foreign_names()],
        [*LLM_ARCHS, *LLMS.foreign_names()],
        [*ADAPTERS.names(), *ADAPTER_ARCHS],
    )


def arch_config(name: str) -> SpeechLlmConfig:
    """The configuration of `encoder.llm.adapter`, for instance `whisper_large_v3.llama31_8b.base`.

    :raises UserError: there is no such architecture.
    """
    if name not in all_arch_names():
        raise unknown_arch(name, "arch")
    encoder, llm, adapter = name.split(".")
    return SpeechLlmConfig(
        encoder=_section(encoder, ENCODER_ARCHS.get(encoder)),
        adapter=_adapter_section(adapter),
        llm=_section(llm, LLM_ARCHS.get(llm)),
    )


def unknown_arch(name: str, key: str) -> UserError:
    """:param key: the configuration key that holds the name."""
    close = get_close_matches(name, all_arch_names(), n=3)
    parts = "; ".join(
        f"{kind}: {', '.join(names)}"
        for kind, names in zip(("encoders", "LLMs", "adapters"), _names(), strict=True)
    )
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    return UserError(f"{key}: found {name!r}, expected encoder.llm.adapter{meant}; {parts}")


def is_published(name: object) -> bool:
    """Whether an architecture is a paper's, for which the last checkpoint is evaluated."""
    return name in {".".join(parts) for tables in (GRID, AUTHORS, SLM) for parts in product(*tables)}


def _adapter_section(name: str) -> PartSection:
    if name not in ADAPTER_ARCHS:
        return PartSection(name=name)
    part, config = ADAPTER_ARCHS[name]
    return PartSection(name=part, config=dict(config))


def _section(name: str, arch: PartArch | None) -> PartSection:
    """:param arch: None for a part of another package, which keeps its defaults."""
    if arch is None:
        return PartSection(name=name)
    return PartSection(name=arch.part, config={"path": arch.path, **arch.options}, arch=name)
