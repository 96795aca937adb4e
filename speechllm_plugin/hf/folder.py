"""Writes a system in transformers' format."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Processor
from transformers.utils import SAFE_WEIGHTS_NAME

from speechllm_plugin.datasets.audio import SAMPLE_RATE
from speechllm_plugin.errors import UserError
from speechllm_plugin.hf.configuration import HfSpeechLlmConfig
from speechllm_plugin.hf.modeling import HfSpeechLlm
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.config import PRETRAINED, SpeechLlmConfig
from speechllm_plugin.models.speech_llm.exported import INSIDE
from speechllm_plugin.models.speech_llm.kept_vocabulary import FILE, keep_vocabulary
from speechllm_plugin.models.speech_llm.merging import merge_llm
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.pretrained import Source, copy_checkpoint, load_tokenizer
from speechllm_plugin.pretrained.identity import hash_weights
from speechllm_plugin.pretrained.weights import weight_files
from speechllm_plugin.workarounds.transformers_versions import own_defaults


def write_folder(
    folder: Path,
    config: SpeechLlmConfig,
    decoding: DecodingConfig,
    weights: dict[str, Tensor],
    *,
    longest_clip: float | None = None,
    copied: tuple[str, ...] = (),
) -> None:
    """
    :param folder: exists, and may hold frozen parts under their names.
    :param config: resolved.
    :param weights: what was trained, by its names in `SpeechLlm`.
    :param longest_clip: see `HfSpeechLlmConfig`.
    :param copied: the frozen parts, of "encoder" and "llm", that are copied into the folder. Of the others the paths
        are written, and the identity of their weights.
    """
    tokenizer = load_tokenizer(_source(config, "llm"))
    values: dict[str, Any] = asdict(config)
    for part in PRETRAINED:
        if part in copied:
            copy_checkpoint(_source(config, part), folder / part)
        if (folder / part).is_dir():
            values[part]["config"]["path"] = f"{INSIDE}{part}"
    if config.ctc.vocabulary is not None:
        keep_vocabulary(config.ctc.vocabulary, folder)
        values["ctc"]["vocabulary"] = FILE
    hf_config = HfSpeechLlmConfig(values, asdict(decoding), longest_clip, architectures=[HfSpeechLlm.__name__])
    hf_config.save_pretrained(folder)
    (folder / SAFE_WEIGHTS_NAME).write_bytes(
        save({name: weight.contiguous() for name, weight in weights.items()}, {"format": "pt"})
    )
    # transformers' own classes turn samples into a padded batch with a mask, and tokens into texts.
    extractor = Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=SAMPLE_RATE, padding_value=0.0, do_normalize=False, return_attention_mask=True
    )
    Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)


def write_merged(
    folder: Path,
    system: SpeechLlm,
    decoding: DecodingConfig,
    *,
    longest_clip: float | None = None,
    copied: tuple[str, ...] = (),
) -> None:
    """`write_folder` for a system whose LLM was tuned. The tuned updates are merged into the LLM's weights, in `llm/`:
    a plain checkpoint of transformers, which programs that know nothing of speech can load, too.

    :raises UserError: see `merge_llm`.
    """
    source = _source(system.config, "llm")
    merge_llm(system)
    copy_checkpoint(source, folder / "llm", weights=False)
    model: Any = system.llm.model
    generation = folder / "llm" / "generation_config.json"
    kept = generation.read_bytes() if generation.is_file() else None
    with own_defaults(model):  # transformers does not save some that it loads
        model.save_pretrained(folder / "llm")
    if kept is None:
        generation.unlink(missing_ok=True)
    else:
        generation.write_bytes(kept)
    system.config.llm.weights = hash_weights(str(folder / "llm"), weight_files(str(folder / "llm")))
    write_folder(
        folder, system.config, decoding, system.state_dict(), longest_clip=longest_clip, copied=copied
    )


def _source(config: SpeechLlmConfig, part: str) -> Source:
    section = getattr(config, part)
    path = getattr(section.config, "path", None)
    if path is None:
        raise UserError(f"{part}.name: found {section.name!r}, which has no path, expected a part of a checkpoint")
    return Source.of(part, path)
