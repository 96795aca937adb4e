"""What `dtype: auto` means."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from speechllm_plugin.encoders.whisper import WhisperConfig
from speechllm_plugin.tensors.precision import MachinePrecision, machine_precision, part_dtype
from tests.commands import environment
from tests.waiting import LONGEST

FORKS = """
import json, os, torch
from speechllm_plugin.tensors.precision import machine_precision
for limits in ({}, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, {"ATEN_CPU_CAPABILITY": "avx2"}):
    child = os.fork()  # PyTorch asks the CPU once a process
    if child == 0:
        os.environ.update(limits)
        machine = machine_precision("cpu")
        print(json.dumps([machine.auto, machine.reason]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_a_cpu_is_asked_what_it_multiplies() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", FORKS], env=environment(), check=True, capture_output=True, text=True, timeout=LONGEST
    ).stdout
    here, *limited = (json.loads(line) for line in printed.splitlines())
    capability = torch.backends.cpu.get_cpu_capability()
    # With `ATEN_CPU_CAPABILITY=avx2` the instructions are there, and are not used.
    multiplies = capability != "AVX2" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    if capability in ("AVX2", "AVX512"):
        assert (here[0] == "bfloat16") == multiplies
        assert limited == [["float32", "this CPU does not multiply bfloat16 in hardware"]] * 2
    assert here == [machine_precision("cpu").auto, machine_precision("cpu").reason]


@pytest.mark.parametrize(
    ("trained", "float32_cpu", "bfloat16_cpu", "bfloat16_gpu"),
    [
        ("float32", "float32", "float32", "float32"),
        ("bfloat16", "float32", "bfloat16", "bfloat16"),
        ("float16", "float32", "float32", "float16"),
        ("auto", "auto", "auto", "auto"),
    ],
)
def test_decoding_takes_float32_where_the_training_s_precision_is_slow(
    trained: str, float32_cpu: str, bfloat16_cpu: str, bfloat16_gpu: str
) -> None:
    assert MachinePrecision("float32", "", float16=False).decode_in(trained) == float32_cpu
    assert MachinePrecision("bfloat16", "", float16=False).decode_in(trained) == bfloat16_cpu
    assert MachinePrecision("bfloat16", "", float16=True).decode_in(trained) == bfloat16_gpu


def test_auto_is_replaced_in_the_configuration_of_a_part() -> None:
    config = WhisperConfig()
    assert config.dtype == "auto"
    assert str(part_dtype(config)) == f"torch.{config.dtype}"
    assert config.dtype == machine_precision("cpu").auto
    chosen = WhisperConfig(dtype="float16")
    assert part_dtype(chosen) is torch.float16 and chosen.dtype == "float16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_asked_what_it_multiplies() -> None:
    machine = machine_precision("cuda")
    native = torch.cuda.get_device_capability()[0] >= 8
    assert machine.auto == ("bfloat16" if native else "float32") and machine.float16
