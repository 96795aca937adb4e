"""`fairseq2 recipe run speech_llm train OUTPUT_DIR`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from fairseq2.checkpoint import CheckpointManager
from fairseq2.logging import log
from fairseq2.recipe.base import Recipe, RecipeContext
from fairseq2.runtime.dependency import DependencyContainer
from fairseq2.task import Task
from torch.nn import Module
from typing_extensions import override

from speechllm_plugin.datasets.reader import SpeechTextReader
from speechllm_plugin.datasets.speech_text import SpeechTextDataset
from speechllm_plugin.datasets.utterances import Utterances
from speechllm_plugin.errors import UserError
from speechllm_plugin.files.atomic import write_atomically
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.llms.limits import ReferenceLength, rate_for, reference_lengths, report_limit
from speechllm_plugin.models.speech_llm.checkpoint_files import Checkpoint, keep_decoding, step_numbers
from speechllm_plugin.models.speech_llm.ctc_head import LlmEmbeddingCtcHead
from speechllm_plugin.models.speech_llm.kept_vocabulary import keep_vocabulary, use_kept_vocabulary
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.prompts import PromptConfig
from speechllm_plugin.tensors.parameters import count_parameters
from speechllm_plugin.units.alignable import check_alignable, known_transcripts
from speechllm_plugin.units.training import SpeechLlmTrainUnit
from speechllm_plugin.units.validation import SpeechLlmValidUnit
from speechllm_recipes.speech_llm.auto_precision import TrainingPrecision, settle_training
from speechllm_recipes.speech_llm.common import (
    check_level,
    check_references,
    create_reader,
    dtype_name,
    feature_cache,
    joint_name,
    read_manifests,
    register_common,
    sharing_llm,
)
from speechllm_recipes.speech_llm.config import SpeechLlmTrainConfig
from speechllm_recipes.speech_llm.conflicts import SCORED_BY
from speechllm_recipes.speech_llm.disk_space import ask_for_space_first, before_each_checkpoint
from speechllm_recipes.speech_llm.memory import settle_checkpointing
from speechllm_recipes.speech_llm.resume import check_steps, follow_configuration
from speechllm_recipes.speech_llm.run_record import check_run_record
from speechllm_recipes.speech_llm.task import ResumableTask, Stop, WatchedReader
from speechllm_recipes.speech_llm.user_errors import get_model


class SpeechLlmTrainRecipe(Recipe):
    _precision: TrainingPrecision  # settled before the model is made

    @property
    @override
    def config_kls(self) -> type[object]:
        return SpeechLlmTrainConfig

    @override
    def register(self, container: DependencyContainer) -> None:
        register_common(container)

    @override
    def setup_model(self, context: RecipeContext, model: Module, newly_initialized: bool) -> Module:
        assert isinstance(model, SpeechLlm)
        config = context.get_config_as(SpeechLlmTrainConfig)
        check_run_record(context.output_dir, model.config, self._precision.mixed, context.gangs)
        log.info("{}", self._precision.describe(model.precision))
        model.features.cache = feature_cache(config.dataset, model.encoder)
        if isinstance(model.ctc, LlmEmbeddingCtcHead):
            texts = (
                model.config.prompt.task_of(*row.asked).spoken(row.row.tgt_text, row.row.src_text)
                for row in self._train_rows(context, config)
            )
            known = (text for text in texts if text is not None)
            tokens: set[int] = set()
            while block := list(islice(known, _TOGETHER)):
                tokens.update(*model.transcripts_tokens(block))
            model.ctc.set_vocabulary(sorted(tokens))
            log.info("CTC vocabulary: {:,} tokens of the training text.", len(tokens))
        frozen = count_parameters(model.encoder, model.llm) - count_parameters(model.tuned)
        parts = {"adapter": model.adapter, "CTC head": model.ctc, **model.tuned}
        trained = {name: count_parameters(part) / 1e6 for name, part in parts.items() if part is not None}
        if model.llm.shares_layers:
            log.info("LLM: {} processes share its layers.", context.gangs.sdp.size)
        elif config.trainer.data_parallelism == "fsdp" and context.gangs.sdp.size > 1:
            log.info("LLM: all of it is on every process; only decoder-only LLMs without quantization are shared.")
        log.info(
            "Parameters: {:.3f} M trained ({}), {:.1f} M frozen.",
            count_parameters(model) / 1e6,
            ", ".join(f"{name} {millions:.3f} M" for name, millions in trained.items()),
            frozen / 1e6,
        )
        return model

    @override
    def create_task(self, context: RecipeContext) -> Task:
        config = context.get_config_as(SpeechLlmTrainConfig)
        _check_model_section(config)
        check_steps(context.output_dir, config.regime.num_steps)
        splits = config.dataset.train_split
        config.dataset.mixture.check_splits(splits)
        check = read_manifests(context, config.dataset, [*splits, *config.dataset.valid_splits])
        self._check_score_metric(context, config)
        check_level(config.decoding, config.dataset)
        self._precision = settle_training(context, config)
        checkpoints = context.output_dir / "checkpoints"
        use_kept_vocabulary(config.model.config_overrides, checkpoints)
        unchanged = _model_yaml_unchanged_if_refused(checkpoints / "model.yaml", context.gangs.root.rank)
        with unchanged, sharing_llm(context.gangs.sdp, wanted=config.trainer.data_parallelism == "fsdp"):
            model = get_model(context, check)
        if context.gangs.root.rank == 0:
            keep_vocabulary(model.config.ctc.vocabulary, checkpoints)
        if config.model.name is not None:
            directory = Path(str(config.common.assets.prev_checkpoint_dir))
            step = config.model.name.removeprefix("checkpoint_step_")
            log.info("The model is that of step {} of {}.", step, directory.parent)
        reader = create_reader(
            context,
            config.dataset,
            model,
            splits,
            shuffle_seed=config.common.seed,
            num_accumulate=config.trainer.grad_accumulation.num_batches,
            batching=config.dataset.batching,
            augmentation=config.dataset.augmentation,
            mixture=config.dataset.mixture,
            max_positions=config.dataset.max_batch_positions,
            accept_new_rows=config.dataset.accept_new_rows,
        )
        transcripts, seconds = known_transcripts(model, reader.clips, joint_name(splits))
        check_alignable(model, transcripts, seconds, joint_name(splits))
        unit = SpeechLlmTrainUnit(model, context.get_data_parallel_model(), reader)
        lengths = reference_lengths(model.prompts, reader.clips)
        longest = 1 + max((length.tokens for length in lengths), default=0)
        settle_checkpointing(config, model, reader, longest, context.device)
        decoding = _resolve_decoding(context, config, model, reader, lengths)
        manager = context.get_checkpoint_manager()
        stop = Stop(context.gangs.root)

        def before_validation() -> None:
            unit.losses.check()
            # The checkpoint is completed before the validation, during which the run may be killed.
            _complete(manager)

        valid_units, valid_readers = [], []
        for split in config.dataset.valid_splits:
            valid_reader = create_reader(context, config.dataset, model, [split], sample=config.dataset.valid_clips)
            if config.dataset.valid_decode:
                check_references(split, model.prompts, valid_reader, decoding)
            valid_units.append(
                SpeechLlmValidUnit(
                    model,
                    name=split,
                    tasks=valid_reader.tasks,
                    gang=context.gangs.dp,
                    decode=config.dataset.valid_decode,
                    decoding=decoding,
                )
            )
            valid_readers.append(WatchedReader(valid_reader, before_validation))
        _log_validation(context, config, model)
        try:
            scheduler, optimizer = context.get_lr_scheduler(), context.get_optimizer()
            watched = WatchedReader(reader, stop.before_step)
            trainer = context.create_trainer(unit, watched, valid_units, valid_readers)
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            # Only PyTorch and fairseq2 can tell that these values are wrong.
            reason = " ".join(str(error).split())
            raise UserError(
                f"optimizer, lr_scheduler, regime: found values that do not go together ({reason}), expected others"
            ) from error
        follow_configuration(optimizer, scheduler)
        ask_for_space_first(manager, checkpoints, model, optimizer)
        before_each_checkpoint(manager, lambda _: unit.losses.check())
        return ResumableTask(trainer, stop, context.output_dir)

    @staticmethod
    def _check_score_metric(context: RecipeContext, config: SpeechLlmTrainConfig) -> None:
        """Refuses a metric that cannot choose the best checkpoint, because the splits lack the texts that it scores."""
        metric, splits = config.regime.score_metric, config.dataset.valid_splits
        if metric not in SCORED_BY or not splits:
            return
        dataset = context.get_dataset_as(SpeechTextDataset)
        prompt = _prompt_of(config.model.config_overrides)
        tasks = {prompt.task_of(*asked) for asked in dataset.read_together(splits).counts}
        if all(task.scored_by != SCORED_BY[metric] for task in tasks):
            kinds = " and ".join(sorted({_NAMES.get(task.name, task.name) for task in tasks}))
            others = [name for name, kind in SCORED_BY.items() if kind in {task.scored_by for task in tasks}]
            raise UserError(
                f"regime.score_metric: found {metric!r}, but {', '.join(splits)} (dataset.valid_splits) holds {kinds} "
                f"only, expected {', '.join([*others, 'nll_loss'])}"
            )

    @staticmethod
    def _train_rows(context: RecipeContext, config: SpeechLlmTrainConfig) -> Utterances:
        return context.get_dataset_as(SpeechTextDataset).read_together(config.dataset.train_split)


_TOGETHER = 4096
"""Number of texts that are tokenised together."""
_NAMES = {"transcribe": "transcriptions", "translate": "translations", "answer": "answers"}


def _prompt_of(overrides: object) -> PromptConfig:
    """The prompt's keys that decide the task of a clip."""
    prompt = overrides.get("prompt") if isinstance(overrides, Mapping) else None
    answer = prompt.get("answer") if isinstance(prompt, Mapping) else None
    return PromptConfig(answer=answer if isinstance(answer, (str, list)) else None)


def _resolve_decoding(
    context: RecipeContext,
    config: SpeechLlmTrainConfig,
    model: SpeechLlm,
    reader: SpeechTextReader,
    lengths: Sequence[ReferenceLength],
) -> DecodingConfig:
    """The run's decoding, saved beside its checkpoints. A length limit that is not set comes from the training
    references, or for a resumed run from its saved decoding."""
    checkpoints, decoding = context.output_dir / "checkpoints", config.decoding
    if decoding.tokens_per_second is None:
        steps = step_numbers(checkpoints)
        kept = Checkpoint(checkpoints, steps[-1]).decoding().tokens_per_second if steps else None
        decoding = replace(decoding, tokens_per_second=kept or rate_for(lengths))
    report_limit(joint_name(config.dataset.train_split), lengths, decoding)
    if context.gangs.root.rank == 0:
        clean_text = context.get_dataset_as(SpeechTextDataset).config.clean_text
        keep_decoding(checkpoints, decoding, float(reader.clips.seconds.max()), clean_text)
    log.info("Decoding of this run, also in evaluate, generate and transcribe: {}", decoding.described())
    return decoding


def _log_validation(context: RecipeContext, config: SpeechLlmTrainConfig, model: SpeechLlm) -> None:
    """Logs the dtypes of the validation, which chooses the best checkpoint."""
    trainer, mixed = config.trainer, config.trainer.mixed_precision
    if trainer.data_parallelism == "fsdp" and context.gangs.root.size > 1 and mixed.mode == "static":
        log.warning(
            "Validation computes the adapter in {}, to which FSDP casts it, where evaluate and transcribe compute in "
            "float32: their scores may differ. trainer.mixed_precision.mode=auto validates in float32.", mixed.dtype
        )
        return
    log.info(
        "Validation computes without autocast, as evaluate, generate and transcribe do: encoder {}, adapter {}, LLM "
        "{}.", *(dtype_name(part) for part in (model.encoder, model.adapter, model.llm)),
    )


def _complete(manager: CheckpointManager) -> None:
    manager.maybe_complete_save_operation(blocking=True)


def _check_model_section(config: SpeechLlmTrainConfig) -> None:
    if config.model.name is not None and config.model.arch is not None:
        raise UserError(
            f"model.arch: found {config.model.arch!r} with --init-from, expected none: the model is the checkpoint's, "
            "with what model.config_overrides changes"
        )


@contextmanager
def _model_yaml_unchanged_if_refused(metadata: Path, rank: int) -> Iterator[None]:
    """Restores `model.yaml` if the run is refused: fairseq2 writes the new model's file before we check whether the run
    may be resumed, and the old file describes the model of the checkpoints."""
    before = metadata.read_bytes() if rank == 0 and metadata.is_file() else None
    try:
        yield
    except BaseException:
        if before is not None:
            write_atomically(metadata, before)
        raise
