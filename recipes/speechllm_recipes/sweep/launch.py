"""Starts the stages of a cell: as a process here, as several with torchrun, or as SLURM jobs with submitit."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_recipes.sweep.cells import EVALUATION, CellFolder

if TYPE_CHECKING:
    import submitit

_PR_SET_PDEATHSIG = 1
_PERIOD = 0.5
"""Seconds between two polls of a process."""


def stages(cell: CellFolder) -> list[tuple[str, list[str]]]:
    """The recipe's arguments for each stage of a cell."""
    if cell.cell.train is None:
        cascade = [str(cell.folder / EVALUATION), "--no-rich", "--config-file", str(cell.evaluate_file)]
        return [("cascade", ["cascade", *cascade])]
    train = ["train", str(cell.folder), "--no-rich", "--config-file", str(cell.train_file)]
    evaluate = ["evaluate", str(cell.folder / EVALUATION), "--no-rich", "--checkpoint", str(cell.folder), "--step",
                cell.cell.step, "--config-file", str(cell.evaluate_file)]
    return [("train", train), *([("evaluate", evaluate)] if cell.cell.evaluate is not None else [])]


def command(processes: int) -> list[str]:
    """:param processes: 1 uses this interpreter, more use torchrun."""
    module = ["-m", "speechllm_recipes", "recipe", "run", "speech_llm"]
    if processes == 1:
        return [sys.executable, *module]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *module]


def run_cell(cell: CellFolder, processes: int, watch: Callable[[str], None] = lambda stage: None) -> str | None:
    """Runs the stages of a cell that are left.

    :param watch: called while a stage runs.
    :returns: None if all stages ended well, otherwise the error.
    """
    try:
        with cell.worked_on() as lock:
            cell.write_configuration()
            for stage, arguments in stages(cell):
                if stage in cell.done():
                    continue
                with open(cell.log, "ab") as log:
                    process = subprocess.Popen(
                        [*command(processes), *arguments], stdout=log, stderr=subprocess.STDOUT,
                        stdin=subprocess.DEVNULL, pass_fds=[lock], preexec_fn=_end_with_parent,
                    )  # fmt: skip
                    status = _wait(process, lambda: watch(stage))  # noqa: B023
                if status != 0:
                    return f"{stage} ended with status {status}: {cell.last_words()}"
                cell.mark_done(stage)
    except BlockingIOError:
        return "other processes work on it"
    except UserError as error:
        return str(error)
    return None


def _wait(process: subprocess.Popen[bytes], watch: Callable[[], None]) -> int:
    try:
        while True:
            try:
                return process.wait(_PERIOD)
            except subprocess.TimeoutExpired:
                watch()
    except BaseException:
        # An interrupted run saves its progress.
        process.terminate()
        process.wait()
        raise


def _end_with_parent() -> None:
    """Ends this process when a sweep is killed, so that it does not go on beside the next sweep."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def submit(
    cells: Sequence[CellFolder], processes: int, folder: Path, parameters: dict[str, Any], cluster: str = "slurm"
) -> list[submitit.Job[str | None]]:
    """Submits an array with one job for each cell; a job that SLURM preempts or ends at its limit is submitted again.

    :param parameters: submitit's parameters, for instance `slurm_partition`.
    :raises UserError: submitit is not installed, or refuses.
    """
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher slurm: found no package submitit, expected it: pip install submitit") from None
    # Paths become absolute, because a job starts in another folder.
    cells = [CellFolder(cell.cell, cell.folder.resolve()) for cell in cells]
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name="speech_llm_sweep", **parameters)
        return executor.map_array(run_cell, cells, [processes] * len(cells))
    except (RuntimeError, NameError, TypeError, ValueError, submitit.core.utils.FailedJobError) as error:
        raise UserError(f"--launcher slurm: {' '.join(str(error).split())}; expected what submitit takes") from error
