"""Configuration of the actions. Every default suits the published systems (arXiv 2409.17044)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fairseq2.data_type import DataType
from fairseq2.recipe.config import (
    ActivationCheckpointingConfig,
    AdamWConfig,
    CommonSection,
    CosineAnnealingLRConfig,
    DatasetSection,
    EvaluatorSection,
    GangSection,
    GeneratorSection,
    GradAccumulationConfig,
    LRSchedulerSection,
    MixedPrecisionConfig,
    ModelSection,
    OptimizerSection,
    ReferenceModelSection,
    RegimeSection,
    TrainerSection,
)
from fairseq2.utils.validation import ValidationResult

from speechllm_plugin.configuration.checked import Checked
from speechllm_plugin.datasets.augmentation import AugmentationConfig
from speechllm_plugin.datasets.lengths import TooLong
from speechllm_plugin.datasets.mixture import MixtureConfig
from speechllm_plugin.datasets.plan import Batching
from speechllm_plugin.datasets.speech_text import SPEECH_TEXT_DATASET
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import DEFAULT_ARCH, SPEECH_LLM_FAMILY, PartSection
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.scoring.normalizers import NormalizerName
from speechllm_plugin.text.repetition import LOOP_RATIO
from speechllm_recipes.speech_llm.conflicts import conflicts, value_at
from speechllm_recipes.speech_llm.step_numbers import EVERY, NUM_STEPS, PUBLISH_EVERY, WARM_UP
from speechllm_recipes.speech_llm.value_checks import check_values


@dataclass(kw_only=True)
class SpeechDatasetSection(DatasetSection):
    family: str | None = SPEECH_TEXT_DATASET

    batch_size: int = 10
    """Maximum number of clips in a batch."""
    max_batch_seconds: float | None = None
    """Maximum audio in a batch, earlier turns and padding included, in seconds. None = only `batch_size` is a limit."""
    min_seconds: float = 0.0
    """Shorter clips are left out and counted."""
    max_seconds: float | None = None
    """Longer clips are too long. None = the encoder's window; a number below it gives systems with different encoders
    the same clips."""
    too_long: TooLong = "error"
    """What a clip does that is longer than `max_seconds`, or than the encoder takes: `error`, or left out with
    `on_error=skip`; `skip` leaves it out; `cut` drops the audio behind, but no text. Counted in the log."""
    on_error: Literal["raise", "skip"] = "raise"
    """What happens at a clip that cannot be read: `raise` stops the run, `skip` leaves the clip out and counts it; the
    log names the first ones, and then how many they are."""
    feature_cache: str | None = None
    """Folder that keeps encoder features, so that each clip is encoded once. Whisper large-v3 needs 128 kB per second
    of audio in bfloat16, twice that in float32. None = encode in every epoch."""
    feature_cache_gb: float | None = None
    """The most that the folder may take, in GB: features of other encoders are deleted for it, the longest unused
    first; when it is full, no more are added. None = no limit."""
    num_threads: int = 2
    """Threads that read audio in each process."""
    prefetch: int = 8
    """Batches read ahead in each process."""

    def validate(self) -> ValidationResult:
        result = super().validate()
        for name in ("batch_size", "num_threads", "prefetch"):
            if getattr(self, name) < 1:
                result.add_error(f"`{name}` must be at least 1, but is {getattr(self, name)} instead.")
        if self.feature_cache_gb is not None and not self.feature_cache_gb > 0:
            result.add_error(f"`feature_cache_gb` must be above 0, but is {self.feature_cache_gb} instead.")
        if self.max_seconds is not None and self.max_seconds <= self.min_seconds:
            result.add_error(
                f"`max_seconds` must be more than `min_seconds` ({self.min_seconds:g}), but is {self.max_seconds:g} "
                "instead."
            )
        return result


def _names(value: str | list[str]) -> list[str]:
    """A single name as a list of one: fairseq2 would make a list of its letters."""
    return [value] if isinstance(value, str) else value


@dataclass(kw_only=True)
class TrainDatasetSection(SpeechDatasetSection):
    train_split: str | list[str] = "train"
    """Key of `config_overrides.manifests` to train on, or several: `[asr, st, answers]`."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """How often the clips of each of them are seen."""
    batching: Batching = "bucketed"
    """Which clips share a step. `bucketed`: a step is a random sample of the clips, sorted by length into its batches
    (processes x accumulation); with one batch a step that is `random`. `bucketed_steps`: all clips of a step are of
    about one length: the least padding, but gradients of long and of short clips take turns. `random`: each batch is a
    random sample. The log tells the share of padding."""
    max_batch_positions: int | None = None
    """Maximum number of positions of the LLM in a batch: prompt, speech and text of its clips, padding included, with
    as many vectors as the adapter can make of a clip. Clips that need about as many share a batch. `batch_size` and
    `max_batch_seconds` stay limits beside it. None = no limit."""
    accept_new_rows: bool = False
    """Whether a run may be resumed over other rows than it was started with (more rows, another order, other texts).
    The log then tells what differs, and a new epoch begins. False = this is an error."""
    valid_splits: str | list[str] = field(default_factory=lambda: ["dev"])
    """Keys of `config_overrides.manifests` to validate on; empty = no validation."""
    valid_clips: int | None = None
    """Number of clips to validate on in each split: a random sample, the same for every run. None = all."""
    valid_decode: bool = True
    """Whether the validation splits are decoded, and the WER of their transcriptions, BLEU and chrF2 of their
    translations, exact matches and token F1 of their answers reported. `regime.score_metric` is one of `wer`, `bleu`,
    `chrf2`, `answer_exact`, `answer_f1`, or `nll_loss`. False reports the loss alone; `regime.score_metric` must then
    be `nll_loss`."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Silence, noise, gain, telephone band and speed for clips of the training split, and gaps in their features."""

    def __post_init__(self) -> None:
        self.train_split = _names(self.train_split)
        self.valid_splits = _names(self.valid_splits)

    def validate(self) -> ValidationResult:
        result = super().validate()
        if self.max_batch_positions is not None and self.max_batch_positions < 1:
            result.add_error(f"`max_batch_positions` must be at least 1, but is {self.max_batch_positions} instead.")
        if not self.train_split or len(set(self.train_split)) < len(self.train_split):
            found = ", ".join(self.train_split) or "none"
            result.add_error(f"`train_split` must be names of splits, each once, but is {found} instead.")
        return result


@dataclass(kw_only=True)
class EvaluateDatasetSection(SpeechDatasetSection):
    splits: str | list[str] = field(default_factory=lambda: ["test"])
    """Keys of `config_overrides.manifests`; each is decoded and scored on its own."""

    def __post_init__(self) -> None:
        self.splits = _names(self.splits)


@dataclass(kw_only=True)
class GenerateDatasetSection(SpeechDatasetSection):
    split: str = "test"
    """Key of `config_overrides.manifests`."""


@dataclass(kw_only=True)
class MixedPrecision(MixedPrecisionConfig):
    """fairseq2's section with `dtype: auto`. (`mode: auto` is torch.amp.)"""

    dtype: Literal["auto"] | DataType = "auto"  # type: ignore[assignment]
    """Dtype that the trained parts compute in; their weights, gradients and the optimizer stay in float32. `auto`:
    bfloat16 where the machine multiplies it in hardware, else float32, as with `mode=off`."""


@dataclass(kw_only=True)
class ActivationCheckpointing(ActivationCheckpointingConfig):
    """fairseq2's section with `mode: auto`."""

    mode: Literal["auto", "off", "layerwise"] = "auto"  # type: ignore[assignment]
    """Whether the layers of adapter and LLM (and of a tuned encoder) keep their inputs alone and are run again in the
    backward pass: far less memory for one more forward pass. `auto`: on a GPU, where the estimate of `speechllm
    inspect` for a batch of the longest clips is more than 90 % of its memory. The log has the figures."""
    memory_gb: float | None = None
    """Memory of a GPU for `auto`, in GB. None = what the device has; on a CPU `auto` is then `off`."""

    def validate(self) -> ValidationResult:
        result = super().validate()
        if self.memory_gb is not None and self.memory_gb <= 0:
            result.add_error(f"`memory_gb` must be more than 0, but is {self.memory_gb:g} instead.")
        return result


@dataclass(kw_only=True)
class SpeechTrainerSection(TrainerSection):
    activation_checkpointing: ActivationCheckpointing = field(default_factory=ActivationCheckpointing)
    mixed_precision: MixedPrecision = field(default_factory=MixedPrecision)


def _common() -> CommonSection:
    # By default fairseq2 puts each run into a folder named by a hash of its configuration: a run with a changed value
    # would start anew, not resume.
    return CommonSection(no_sweep_dir=True)


def _add_problems(result: ValidationResult, key: str, config: Checked) -> None:
    """The plugin's own configurations know no fairseq2: what they say is passed on."""
    for problem in config.problems():
        result.add_error(f"{key}.{problem}")


class CheckedConfig:
    """Checks the numbers before fairseq2's own checks compute with them."""

    def validate(self) -> ValidationResult:
        check_values(self)
        return ValidationResult()


@dataclass(kw_only=True)
class SpeechLlmTrainConfig(CheckedConfig):
    model: ModelSection = field(
        default_factory=lambda: ModelSection(family=SPEECH_LLM_FAMILY, arch=DEFAULT_ARCH)
    )
    """`model.arch` names encoder.llm.adapter; `model.config_overrides` changes any of their keys."""
    dataset: TrainDatasetSection = field(default_factory=TrainDatasetSection)
    decoding: DecodingConfig = field(default_factory=lambda: DecodingConfig(max_compression_ratio=LOOP_RATIO))
    """Decoding in validation. It is saved with the run: `evaluate`, `generate` and `transcribe` decode the same way."""
    gang: GangSection = field(default_factory=GangSection)
    trainer: SpeechTrainerSection = field(
        default_factory=lambda: SpeechTrainerSection(
            max_grad_norm=1.0, grad_accumulation=GradAccumulationConfig(num_batches=4)
        )
    )
    optimizer: OptimizerSection = field(
        default_factory=lambda: OptimizerSection(config=AdamWConfig(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01))
    )
    lr_scheduler: LRSchedulerSection = field(
        default_factory=lambda: LRSchedulerSection(
            config=CosineAnnealingLRConfig(num_warmup_steps=WARM_UP, final_lr=0.0, final_lr_scale=None)
        )
    )
    regime: RegimeSection = field(
        default_factory=lambda: RegimeSection(
            num_steps=NUM_STEPS,
            score_metric="wer",
            validate_every_n_steps=EVERY,
            checkpoint_every_n_steps=EVERY,
            keep_last_n_checkpoints=1,
            keep_best_n_checkpoints=1,
            publish_metrics_every_n_steps=PUBLISH_EVERY,
        )
    )
    common: CommonSection = field(default_factory=_common)

    def validate(self) -> ValidationResult:
        result = super().validate()
        for key, found, expected in conflicts(lambda key: value_at(self, key)):
            result.add_error(f"`{key}` must be {expected}, but is {found} instead.")
        _add_problems(result, "decoding", self.decoding)
        _add_problems(result, "dataset.augmentation", self.dataset.augmentation)
        _add_problems(result, "dataset.mixture", self.dataset.mixture)
        return result


@dataclass(kw_only=True)
class SpeechLlmEvaluateConfig(CheckedConfig):
    model: ReferenceModelSection = field(default_factory=lambda: ReferenceModelSection(name="last_checkpoint"))
    """Set by `--checkpoint`."""
    dataset: EvaluateDatasetSection = field(default_factory=EvaluateDatasetSection)
    decoding: object = None
    """Keys of the training run's `decoding` to change, such as `{beam_size: 4}`. None = decode as in its validation."""
    wer_normalizer: NormalizerName = "basic"
    """Applied to references and hypotheses before WER; its name stands in the score file."""
    shard_llm: bool = False
    """Whether several processes share the LLM's layers out among them, for an LLM that is too large for one GPU: each
    decodes clips of its own, and all wait for the slowest. `train` does so with `trainer.data_parallelism=fsdp`."""
    evaluator: EvaluatorSection = field(default_factory=EvaluatorSection)
    gang: GangSection = field(default_factory=GangSection)
    common: CommonSection = field(default_factory=_common)


@dataclass(kw_only=True)
class SpeechLlmGenerateConfig(CheckedConfig):
    model: ReferenceModelSection = field(default_factory=lambda: ReferenceModelSection(name="last_checkpoint"))
    """Set by `--checkpoint`."""
    dataset: GenerateDatasetSection = field(default_factory=GenerateDatasetSection)
    decoding: object = None
    """As for `evaluate`."""
    shard_llm: bool = False
    """As for `evaluate`."""
    generator: GeneratorSection = field(default_factory=GeneratorSection)
    gang: GangSection = field(default_factory=GangSection)
    common: CommonSection = field(default_factory=_common)


@dataclass(kw_only=True)
class CascadeConfig(CheckedConfig):
    recognizer: PartSection = field(default_factory=lambda: PartSection(name="whisper"))
    """The first stage, `whisper` or `seamless_m4t_v2`: the model that the speech encoder is taken from."""
    llm: PartSection = field(default_factory=lambda: PartSection(name="causal"))
    """The second stage, for clips to translate or to answer. Without such clips it is not loaded."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """As in the joint system, with the transcript in the place of the speech. `prompt.answer=<speech>` makes the
    transcript the whole user turn."""
    dataset: EvaluateDatasetSection = field(default_factory=EvaluateDatasetSection)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    """Decoding of the LLM. The recogniser decodes greedily."""
    wer_normalizer: NormalizerName = "basic"
    """Applied to references and hypotheses before WER; its name stands in the score file."""
    evaluator: EvaluatorSection = field(default_factory=EvaluatorSection)
    gang: GangSection = field(default_factory=GangSection)
    common: CommonSection = field(default_factory=_common)

    def validate(self) -> ValidationResult:
        result = super().validate()
        _add_problems(result, "decoding", self.decoding)
        return result
