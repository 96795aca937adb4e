"""Small real parts that the tests share: models of transformers' own classes and audio files, made on the spot.

Nothing is imported before a fixture asks for it: the tests of the kernels run without transformers and fairseq2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.offline import ask_no_name_server

if TYPE_CHECKING:
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
    from tests.commands import Commands, System

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What other LLMs spell their control tokens like: a transcript may hold any of them as plain text.
CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", "<|eot_id|>", "[INST]"]

SENTENCES = [
    "turn the kitchen light on",
    "what is the weather in berlin today",
    "set a timer for ten minutes",
    "play some quiet music",
    "call my sister tomorrow morning",
    "how long is the drive to the station",
    "remind me to water the plants",
    "read the last message again",
]

ask_no_name_server()

LONGEST = (
    "test_demo_recipe", "test_bad_input", "test_families", "test_sweep", "test_comet", "test_documents_commands",
    "test_distributed", "test_transcribe", "test_cif_compilation", "test_precision", "test_cli", "test_slm_sweep",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of half a minute come first, so that no process of `make test` waits long for the other at the end."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper checkpoint: 2 layers of width 32, 80 mels, the real 1500 positions."""
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=64, num_mel_bins=80, d_model=32, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, max_target_positions=16, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, init_std=0.2, suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    path = tmp_path_factory.mktemp("models") / "whisper"
    WhisperForConditionalGeneration(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 2 layers and width 32 with grouped keys, a byte-level BPE tokenizer and a ChatML template."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=CONTROL_TOKENS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    path = tmp_path_factory.mktemp("models") / "llm"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        additional_special_tokens=CONTROL_TOKENS[1:], chat_template=CHAT_TEMPLATE,
    ).save_pretrained(path)

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
        # Weights large enough that no two tokens are nearly equal: rounding never decides a hypothesis.
        initializer_range=0.3,
        bos_token_id=tokenizer.token_to_id("<|endoftext|>"), eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv (12 rows), dev.tsv (4) and test.tsv (6) over wav and FLAC files of 0.3 to 2.1 s.

    Each sentence has a sound of its own. Some rows have no `n_frames`, some files are not at 16 kHz, and the last two
    rows of the test split are translations.
    """
    import numpy as np
    import soundfile

    from speechllm_plugin.datasets.manifest import ManifestRow, frames_of, write_manifest

    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for split, size in (("train", 12), ("dev", 4), ("test", 6)):
        rows = []
        for i in range(size):
            rate = (16000, 16000, 22050)[i % 3]
            seconds = 0.3 + 0.15 * ((7 * i) % 13)
            times = np.arange(round(rate * seconds)) / rate
            sound = sum(np.sin(2 * np.pi * (200 + 90 * (i % len(SENTENCES))) * k * times) / k for k in (1, 2, 3))
            sound = 0.2 * sound + 0.01 * rng.standard_normal(len(times))
            name = f"{split}_{i}.{('wav', 'flac')[i % 2]}"
            soundfile.write(root / name, sound, rate)
            rows.append(
                ManifestRow(
                    id=f"{split}_{i}", audio=name, n_frames=None if i % 4 == 3 else frames_of(len(times) / rate),
                    tgt_text=SENTENCES[i % len(SENTENCES)], src_text="", speaker=f"voice_{i % 2}", src_lang="en",
                    tgt_lang="de" if split == "test" and i >= 4 else "en", line=0,
                )
            )
        write_manifest(root / f"{split}.tsv", rows)
    return root


@pytest.fixture
def tiny_config(tiny_whisper: Path, tiny_llm: Path) -> SpeechLlmConfig:
    """A configuration over the small parts in float32, with the `mlp` adapter; a test may change its own copy."""
    from speechllm_plugin.models.speech_llm.config import PartSection, SpeechLlmConfig
    from speechllm_plugin.prompts import PromptConfig

    whisper = {"path": str(tiny_whisper), "dtype": "float32", "pad_to_30s": False}
    return SpeechLlmConfig(
        encoder=PartSection(name="whisper", config=whisper),
        adapter=PartSection(name="mlp", config={"stack": 5, "hidden_dim": 48}),
        llm=PartSection(name="causal", config={"path": str(tiny_llm), "dtype": "float32"}),
        prompt=PromptConfig(order="instruction_first"),
    )


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    from tests.commands import Commands

    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands
    commands.close()


@pytest.fixture(scope="session")
def system(tiny_whisper: Path, tiny_llm: Path, tiny_manifest: Path) -> System:
    """A run's configuration over the small parts."""
    from tests.commands import System

    return System(tiny_whisper, tiny_llm, tiny_manifest)
