"""Adds to fairseq2's trainer and evaluator a stop that saves, and one line for errors that they call failures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from signal import SIGTERM, signal
from types import FrameType
from typing import TYPE_CHECKING

from fairseq2.checkpoint import CheckpointError
from fairseq2.datasets import DataReader
from fairseq2.gang import Gang, ReduceOperation
from fairseq2.logging import log
from fairseq2.task import Task, TaskStopException
from typing_extensions import Self, override

from speechllm_plugin.datasets.reader import TrainerBatch
from speechllm_plugin.errors import UserError
from speechllm_plugin.tensors.copies import Arriving, on_device
from speechllm_plugin.units.kept import KeptHypotheses
from speechllm_plugin.workarounds.stop_signal import remember_to_die
from speechllm_recipes.speech_llm.disk_space import full_disk

if TYPE_CHECKING:
    from fairseq2.trainer import Trainer  # it cannot be imported before `fairseq2.recipe`


class DelegatingTask(Task):
    def __init__(self, task: Task) -> None:
        self._task = task

    @override
    def run(self) -> None:
        self._task.run()

    @override
    def request_stop(self) -> None:
        self._task.request_stop()

    @override
    def close(self) -> None:
        self._task.close()

    @property
    @override
    def step_nr(self) -> int:
        return self._task.step_nr


class WatchedReader(DataReader[TrainerBatch]):
    """A reader that calls a function before each step."""

    def __init__(self, reader: DataReader[TrainerBatch], before_step: Callable[[], None]) -> None:
        self._reader = reader
        self._before_step = before_step

    @override
    def __iter__(self) -> Self:
        return self

    @override
    def __next__(self) -> list[TrainerBatch]:
        self._before_step()
        return next(self._reader)

    @override
    def reset(self) -> None:
        self._reader.reset()

    @override
    def state_dict(self) -> dict[str, object]:
        return self._reader.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, object]) -> None:
        self._reader.load_state_dict(state_dict)

    @property
    @override
    def num_accumulate(self) -> int:
        return self._reader.num_accumulate


class Stop:
    """A stop at a signal, which all processes make after the same step.

    Several processes hear of each other's signals one step late: what they have told before a step is read before the
    next one, when a GPU has long worked it out.
    """

    def __init__(self, gang: Gang) -> None:
        self._gang = gang
        self._requested = False
        self._told: Arriving | None = None
        """How many processes had the signal before the last step."""
        self.trainer: Trainer | None = None
        """The trainer that saves the checkpoint."""

    @property
    def processes(self) -> int:
        return self._gang.size

    def request(self) -> None:
        self._requested = True

    def before_step(self) -> None:
        """
        :raises TaskStopException: a process got the signal; the checkpoint has been saved.
        """
        if not self._agreed() or self.trainer is None:
            return
        trainer = self.trainer
        # fairseq2 itself stops early only without a number of steps, and validates before it stops.
        trainer._maybe_complete_checkpoint_save_operation()
        step = trainer.step_nr
        if step > 0 and step not in trainer._checkpoint_manager.get_step_numbers(exclude_model_only=True):
            trainer._save_checkpoint(blocking=True)
        log.info("Stopped by a signal after step {}; its checkpoint is saved, and the same command goes on from it.",
                 step)
        raise TaskStopException()

    def _agreed(self) -> bool:
        if self._gang.size == 1:
            return self._requested
        before = self._told
        number = on_device([int(self._requested)], self._gang.device)
        self._gang.all_reduce(number, ReduceOperation.SUM)
        self._told = Arriving(number)
        return before is not None and bool(before.get())


class ResumableTask(DelegatingTask):
    """A trainer that saves before it stops, and that tells why it cannot resume or save."""

    def __init__(self, trainer: Trainer, stop: Stop, output_dir: Path) -> None:
        super().__init__(trainer)
        self._stop = stop
        self._output_dir = output_dir
        stop.trainer = trainer

    @override
    def run(self) -> None:
        several = self._stop.processes > 1

        def stop(number: int, _: FrameType | None) -> None:
            log.info("SIGTERM received. Stopping after the step in progress{}.", " or the next one" if several else "")
            remember_to_die(number)
            self._stop.request()

        before = signal(SIGTERM, stop)
        try:
            self._task.run()
        except TaskStopException:
            raise
        except Exception as error:
            # fairseq2 wraps the errors of our data reader.
            if isinstance(error, CheckpointError) and isinstance(error.__cause__, UserError):
                raise error.__cause__ from error
            if (line := full_disk(error, self._output_dir)) is not None:
                raise line from error
            raise
        finally:
            signal(SIGTERM, before)

    @override
    def request_stop(self) -> None:
        self._stop.request()


class DecodingTask(DelegatingTask):
    """An evaluator or a generator whose hypotheses are kept until it is done."""

    def __init__(self, task: Task, kept: Sequence[KeptHypotheses], gang: Gang, output_dir: Path) -> None:
        super().__init__(task)
        self._kept = kept
        # Read early, because fairseq2 closes the process group before `run` returns.
        self._first = gang.rank == 0
        self._output_dir = output_dir

    @override
    def run(self) -> None:
        try:
            self._task.run()
        except OSError as error:
            if (line := full_disk(error, self._output_dir)) is not None:
                raise line from error
            raise
        if self._first:
            for kept in self._kept:
                kept.remove()
