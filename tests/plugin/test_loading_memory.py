"""Loading keeps to the bytes of what is kept, however large the checkpoint and whatever its precision.

Each case runs in a process of its own, whose peak is the kernel's count of resident pages: mapped files included.
`python tests/plugin/test_loading_memory.py PART LAYOUT DTYPE MEGABYTES` prints the same figures at another size.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTES = 400
"""Bytes of the checkpoint in float32: the smallest at which the interpreter's own pages do not matter."""


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


def write_checkpoint(path: Path, part: str, layout: str, megabytes: int) -> None:
    """A random checkpoint of a real class in float32; of Whisper's the encoder is two thirds."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperForConditionalGeneration
    from transformers.modeling_utils import no_init_weights

    width = 512
    layers = max(1, megabytes * 2**20 // 4 // (16 * width * width))
    with no_init_weights():
        if part == "llm":
            model = LlamaForCausalLM(LlamaConfig(
                vocab_size=4096, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
                num_attention_heads=8, num_key_value_heads=8, tie_word_embeddings=False,
            ))
        else:
            model = WhisperForConditionalGeneration(WhisperConfig(
                vocab_size=64, d_model=width, encoder_layers=layers, decoder_layers=layers // 3,
                encoder_attention_heads=8, decoder_attention_heads=8, encoder_ffn_dim=4 * width,
                decoder_ffn_dim=4 * width, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
            ))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.5)
    if layout == "bin":
        model.config.save_pretrained(path)
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    else:
        model.save_pretrained(path, max_shard_size="100MB" if layout == "sharded" else "100GB")


def measure(path: Path, part: str, dtype_name: str) -> tuple[int, int]:
    """Loads a checkpoint; returns by how many bytes the process grew at most, and how many bytes it keeps."""
    from transformers import AutoModelForCausalLM, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from speechllm_plugin.pretrained import DTYPES, load_config, load_model, load_submodule

    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    dtype = DTYPES[dtype_name]
    if part == "llm":
        model = load_model(AutoModelForCausalLM, str(path), dtype=dtype, key="llm.config.path")
    else:
        config = load_config(str(path), WhisperConfig, "encoder.config.path")
        model = load_submodule(
            WhisperEncoder, config, str(path), prefix="model.encoder.", dtype=dtype, key="encoder.config.path"
        )
    kept = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    assert all(bool((weight == 0.5).all()) for weight in model.parameters())  # touches what is mapped only
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    return resident("VmHWM") - before, kept


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("part", "layout", "dtype"),
    [
        pytest.param("encoder", "unsharded", "bfloat16", id="part of a checkpoint, converted"),
        pytest.param("encoder", "bin", "bfloat16", id="part of a PyTorch file, converted"),
        pytest.param("llm", "sharded", "bfloat16", id="whole model in shards, converted"),
    ],
)
def test_peak_memory_is_what_is_kept(part: str, layout: str, dtype: str) -> None:
    result = subprocess.run(
        [sys.executable, __file__, part, layout, dtype, str(MEGABYTES)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["peak"] <= 1.2 * figures["kept"], figures


if __name__ == "__main__":
    part, layout, dtype, megabytes = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        # Written by another process: what it held must not count.
        if (child := os.fork()) == 0:
            write_checkpoint(Path(folder), part, layout, int(megabytes))
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit("the checkpoint could not be written")
        peak, kept = measure(Path(folder), part, dtype)
        print(json.dumps({"peak": peak, "kept": kept, "ratio": round(peak / kept, 3)}))
