"""Where the time of training steps goes, from traces of fairseq2's profiler: parts of steps, and what lies between.

    fairseq2 recipe run speech_llm train runs/traced --config common.profilers.torch.enabled=true ...
    python benchmarks/step_gaps.py runs/traced/tb/*.pt.trace.json.gz

`speechllm_tools.bench.step_gaps` tells what the columns are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from speechllm_tools.bench.step_gaps import read, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("traces", nargs="+", type=Path, help="files of PyTorch's profiler, .json or .json.gz")
    for path in parser.parse_args().traces:
        print(f"{path.name}\n\n{table(read(path))}\n")


if __name__ == "__main__":
    main()
