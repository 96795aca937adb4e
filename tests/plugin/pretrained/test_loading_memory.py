"""Loading keeps to the bytes of what is kept, however large the checkpoint and whatever its precision.

Each case runs in a process of its own, whose peak is the kernel's count of resident pages: mapped files included.
`python -m tests.plugin.pretrained.test_loading_memory PART LAYOUT DTYPE MEGABYTES` prints the same figures at another
size.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands

MEGABYTES = 400
"""Bytes of the checkpoint in float32."""
WARM_UP = 140
"""Those of the smallest that every model has a layer of each kind in."""
BUFFERS = 40 * 2**20
"""What loading takes however large the checkpoint is: code, a shard's largest tensor, the allocator's pages."""


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024


MODELS = {
    "encoder": ["WhisperForConditionalGeneration"],
    "llm": ["LlamaForCausalLM"],
    "recognizer": ["SeamlessM4Tv2Model"],
    "speech LLM": ["WhisperForConditionalGeneration", "MT5ForConditionalGeneration"],
}
"""What each part is read from; several share the megabytes."""


def create_model(name: str, megabytes: int) -> Any:
    """One of transformers' own; of Whisper the encoder is two thirds, of mT5 table and head are half, and of Seamless
    a recogniser runs three quarters."""
    import transformers

    width = 512
    layers = max(1, megabytes * 2**20 // 4 // (12 * width * width))
    heads, inner = 8, 4 * width
    if name == "LlamaForCausalLM":
        config: Any = transformers.LlamaConfig(
            vocab_size=4096, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=False,
        )
    elif name == "WhisperForConditionalGeneration":
        config = transformers.WhisperConfig(
            vocab_size=64, d_model=width, encoder_layers=layers * 2 // 3, decoder_layers=layers // 4,
            encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=inner, decoder_ffn_dim=inner,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
        )
    elif name == "MT5ForConditionalGeneration":
        config = transformers.MT5Config(
            vocab_size=megabytes * 2**20 // 16 // width, d_model=width, d_kv=64, d_ff=inner, num_heads=heads,
            num_layers=max(1, layers // 5), decoder_start_token_id=0,
        )
    else:
        config = transformers.SeamlessM4Tv2Config(
            vocab_size=64, t2u_vocab_size=64, char_vocab_size=64, unit_hifi_gan_vocab_size=64, hidden_size=width,
            max_position_embeddings=64, encoder_layers=layers // 6, encoder_ffn_dim=inner,
            encoder_attention_heads=heads, decoder_layers=layers // 3, decoder_ffn_dim=inner,
            decoder_attention_heads=heads, t2u_encoder_layers=1, t2u_encoder_ffn_dim=inner,
            t2u_encoder_attention_heads=heads, t2u_decoder_layers=1, t2u_decoder_ffn_dim=width,
            t2u_decoder_attention_heads=heads, t2u_max_position_embeddings=64, t2u_variance_predictor_embed_dim=16,
            t2u_variance_predictor_hidden_dim=16, unit_embed_dim=16, lang_embed_dim=8, spkr_embed_dim=8,
            upsample_initial_channel=32, vocoder_num_langs=2, vocoder_num_spkrs=2, variance_predictor_kernel_size=3,
            speech_encoder_layers=layers // 10, speech_encoder_attention_heads=heads,
            speech_encoder_intermediate_size=inner,
        )
    return getattr(transformers, name)(config)


def write_checkpoint(path: Path, name: str, layout: str, megabytes: int) -> None:
    """A checkpoint in float32 with a tokenizer, as the real ones have."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import GenerationConfig, PreTrainedTokenizerFast
    from transformers.modeling_utils import no_init_weights

    with no_init_weights():
        model = create_model(name, megabytes)
    model.tie_weights()
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(0.5)
    path.mkdir()
    if layout == "bin":
        model.config.save_pretrained(path)
        torch.save(model.state_dict(), path / "pytorch_model.bin")
    else:
        model.save_pretrained(path, max_shard_size="100MB" if layout == "sharded" else "100GB")
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    if name == "SeamlessM4Tv2Model":
        GenerationConfig(text_decoder_lang_to_code_id={"eng": 4}).save_pretrained(path)


def loader(folder: Path, part: str, dtype: str) -> Callable[[], Any]:
    """Loads a part; what it imports is imported before."""
    import transformers

    from speechllm_plugin.cascade.recognizers.api import RECOGNIZERS
    from speechllm_plugin.encoders.api import ENCODERS
    from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
    from speechllm_plugin.models.speech_llm.factory import create_speech_llm
    from speechllm_plugin.pretrained import Source, load_model
    from speechllm_plugin.tensors.precision import DTYPES

    for name in MODELS[part]:
        getattr(transformers, name)
    first, *rest = (str(folder / name) for name in MODELS[part])
    values = {"path": first, "dtype": dtype}
    if part == "llm":
        auto = transformers.AutoModelForCausalLM
        return lambda: load_model(auto, Source.of("llm", first), dtype=DTYPES[dtype])
    if part == "encoder":
        encoder = ENCODERS.get("whisper")
        return lambda: encoder.build(ENCODERS.config(encoder.name, values))
    if part == "recognizer":
        recognizer = RECOGNIZERS.get("seamless_m4t_v2")
        return lambda: recognizer.build(RECOGNIZERS.config(recognizer.name, values))
    config = SpeechLlmConfig(
        encoder=PartSection(name="whisper", config=values),
        adapter=PartSection(name="mlp", config={"stack": 5, "hidden_dim": 64}),
        llm=PartSection(name="encoder_decoder", config={"path": rest[0], "dtype": dtype}),
    )
    config.resolve()
    return lambda: create_speech_llm(config)


def measure(folder: Path, part: str, dtype: str) -> tuple[int, int]:
    """Loads a part; returns by how many bytes the process grew at most, and how many bytes it keeps."""
    from speechllm_plugin.tensors.precision import DTYPES

    load = loader(folder, part, dtype)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    model = load()
    # A speech LLM's own parameters are the adapter's.
    parts = [model.encoder, model.llm] if part == "speech LLM" else [model]
    frozen = [weight for one in parts for weight in one.parameters()]
    kept = sum(weight.numel() * weight.element_size() for weight in frozen)
    # Touches what is mapped only, a piece at a time.
    assert all(bool((rows == 0.5).all()) for weight in frozen for rows in weight.split(1024))
    assert {weight.dtype for weight in frozen} == {DTYPES[dtype]}
    return resident("VmHWM") - before, kept


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("part", "layout", "dtype"),
    [
        pytest.param("encoder", "unsharded", "bfloat16", id="part of a checkpoint, converted"),
        pytest.param("encoder", "bin", "bfloat16", id="part of a PyTorch file, converted"),
        pytest.param("llm", "sharded", "bfloat16", id="whole model in shards, converted"),
        pytest.param("recognizer", "unsharded", "bfloat16", id="half of a checkpoint as a model, converted"),
        pytest.param("speech LLM", "sharded", "bfloat16", id="encoder and mT5 joined, converted"),
    ],
)
def test_peak_memory_is_what_is_kept(commands: Commands, part: str, layout: str, dtype: str) -> None:
    printed = commands.module("tests.plugin.pretrained.test_loading_memory", part, layout, dtype, MEGABYTES).ok().stdout
    figures = json.loads(printed.splitlines()[-1])
    assert figures["peak"] <= 1.05 * figures["kept"] + BUFFERS, figures


def main(argv: Sequence[str]) -> int:
    part, layout, dtype, megabytes = argv
    # A fork has no page of the libraries until it uses it: a smaller checkpoint is loaded first.
    for size in (WARM_UP, int(megabytes)):
        with tempfile.TemporaryDirectory() as folder:
            # Written by another process: what it held must not count.
            if (child := os.fork()) == 0:
                for name in MODELS[part]:
                    write_checkpoint(Path(folder) / name, name, layout, size // len(MODELS[part]))
                os._exit(0)
            if os.waitpid(child, 0)[1] != 0:
                raise SystemExit("the checkpoint could not be written")
            peak, kept = measure(Path(folder), part, dtype)
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    print(json.dumps({"peak": peak, "kept": kept, "ratio": round(peak / kept, 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
