"""Profiles training steps of a recipe, and tells where their time goes and what lies between them."""

from __future__ import annotations

from speechllm_plugin.errors import UserError
from speechllm_tools.bench.step_gaps import read, table
from speechllm_tools.gpu.targets import Section
from speechllm_tools.gpu.training import Workplace

SYSTEM = "seamless_m4t_v2.llama31_8b.wlq_former"
HEAD = """\
## Between steps

Steps of `{system}` with fairseq2's profiler
(`common.profilers.torch.enabled=true`), which itself slows down small operators. `idle` is the time from the start of a
step to the start of the next in which no kernel and no copy runs (on a CPU: no operator), `longest pause` its longest
piece, `until the next` the time between two steps.
"""


def run(place: Workplace, system: str = SYSTEM) -> Section:
    """:raises UserError: the recipe failed, or left no trace."""
    skipped, traced = (1, 3) if place.tiny else (8, 5)
    output = place.folder / "runs" / f"{system}.traced"
    steps = skipped + traced + 2
    profiler = {"enabled": True, "skip_n_steps": skipped, "num_warmup_steps": 1, "num_active_steps": traced}
    config = place.configuration(
        system, place.clips(), common={"profilers": {"torch": profiler}},
        regime={"num_steps": steps, "checkpoint_every_n_steps": steps, "publish_metrics_every_n_steps": steps},
    )  # fmt: skip
    place.report(f"{system}: {traced} steps are traced")
    place.train(system, config, output)
    traces = sorted((output / "tb").glob("*.pt.trace.json.gz"))
    if not traces:
        raise UserError(f"{output / 'tb'}: found no trace, expected one of fairseq2's profiler")
    return Section(f"{HEAD.format(system=system)}\n{table(read(traces[0]))}")
