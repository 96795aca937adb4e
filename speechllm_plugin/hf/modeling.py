"""A system as a model of transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import PreTrainedModel

from speechllm_plugin.configuration.structure import structure
from speechllm_plugin.errors import UserError
from speechllm_plugin.hf.configuration import HfSpeechLlmConfig
from speechllm_plugin.inference.transcriber import Transcriber
from speechllm_plugin.llms.decoding import DecodingConfig
from speechllm_plugin.models.speech_llm.checkpoint import device_named, restore
from speechllm_plugin.models.speech_llm.config import PRETRAINED
from speechllm_plugin.models.speech_llm.exported import ExportedSystem
from speechllm_plugin.models.speech_llm.model import SpeechLlm
from speechllm_plugin.models.speech_llm.shards import put_weights
from speechllm_plugin.tensors.precision import DTYPES

_HUB = ("revision", "cache_dir", "token", "local_files_only", "force_download")
"""Options of `from_pretrained` that say how the hub is asked."""
_NO_EFFECT = ("trust_remote_code", "code_revision", "_from_auto", "_commit_hash", "adapter_kwargs")
"""Options that the Auto classes pass on and an exported folder has no use for."""


class HfSpeechLlm(PreTrainedModel):
    """A whole system. Its `state_dict` holds only the trained weights, as a checkpoint does; the frozen encoder and LLM
    are read from the places that the configuration names."""

    config_class = HfSpeechLlmConfig  # type: ignore[assignment]
    main_input_name = "input_values"

    def __init__(self, config: HfSpeechLlmConfig, model: SpeechLlm) -> None:
        super().__init__(config)
        self._system = Transcriber(model, structure(DecodingConfig, config.decoding, "decoding"))
        self.adapter = model.adapter
        self.ctc = model.ctc
        self.tuned = model.tuned

    @property
    def system(self) -> Transcriber:
        """The whole system, with its other methods: `transcribe`, `transcribe_timed`, `ask`."""
        return self._system

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        config: HfSpeechLlmConfig | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: torch.device | str | None = None,
        overrides: dict[str, Any] | None = None,
        **options: Any,
    ) -> HfSpeechLlm:
        """
        :param pretrained_model_name_or_path: what `speechllm export --format hf` has written, or a hub id of it.
        :param dtype: dtype of encoder and LLM; None or "auto" = that of the training where the device multiplies it in
            hardware, and otherwise float32.
        :param device_map: one device; None = the CPU.
        :param overrides: keys to change, by dotted path, for instance `{"llm.config.path": "models/llama"}` where a
            frozen part has moved.
        :param options: of the hub.
        :raises UserError: files are missing or damaged, or an option is not known.
        """
        folder = _folder(pretrained_model_name_or_path, {key: options.pop(key) for key in _HUB if key in options})
        dtype = options.pop("torch_dtype", dtype)
        if unknown := sorted(options.keys() - set(_NO_EFFECT)):
            raise UserError(
                f"from_pretrained: found {unknown[0]!r}, expected config, dtype, device_map, overrides or an option of "
                f"the hub ({', '.join(_HUB)})"
            )
        config = config or HfSpeechLlmConfig.from_pretrained(folder)
        config.place(folder)
        wanted = {} if dtype in (None, "auto") else {f"{part}.config.dtype": _name(dtype) for part in PRETRAINED}
        exported = ExportedSystem(folder)
        model = restore(
            config.system_config,
            lambda model: put_weights(model, exported.weights(), f"{folder} does not fit its config.json"),
            device_named("cpu" if device_map in (None, "auto") else str(device_map)),
            {**wanted, **(overrides or {})},
            folder,
        )
        config.system = asdict(model.config)
        return cls(config, model).eval()

    @torch.inference_mode()
    def generate(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        *,
        source_lang: str = "en",
        target_lang: str | None = None,
        **decoding: Any,
    ) -> Tensor:
        """The tokens of each clip's text, as `Transcriber.transcribe` writes it.

        :param input_values: `[B, samples]`, at 16 kHz, from -1 to 1.
        :param attention_mask: `[B, samples]`, 1 up to the end of each clip; None = all clips have the full length.
        :param target_lang: language to translate into; None = recognition.
        :param decoding: keys of `DecodingConfig` to change from the validation of the training run, such as
            `beam_size=4`.
        :returns: `[B, U]`, int64, without the prompt, padded on the right.
        :raises UserError: as `Transcriber.transcribe`.
        """
        system = self.system
        if attention_mask is None:
            attention_mask = torch.ones_like(input_values)
        clips = [row[: int(mask.sum())] for row, mask in zip(input_values, attention_mask, strict=True)]
        batch = system.read(clips, source_lang, target_lang)
        _, generated = system.model.generate(batch, system.decoding.changed(decoding))
        # A text that the guard against silence takes away has no tokens.
        rows = [torch.tensor([] if row.no_speech else row.tokens, dtype=torch.long) for row in generated]
        padding = system.model.llm.tokenizer.pad_token_id
        if padding is None:
            padding = system.model.prompts.end_of_turn
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=padding).to(self.device)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> HfSpeechLlm:
        self.system.model._apply(fn, recurse)  # which holds the frozen parts, too
        return self


def _folder(path: str | Path, hub: dict[str, Any]) -> Path:
    if Path(path).is_dir():
        return Path(path)
    return Path(snapshot_download(str(path), **hub))


def _name(dtype: torch.dtype | str | None) -> str:
    names = {kind: name for name, kind in DTYPES.items()}
    found = names.get(dtype, dtype) if isinstance(dtype, torch.dtype) else dtype
    if found not in DTYPES:
        raise UserError(f"dtype: found {dtype!r}, expected one of {', '.join(DTYPES)}")
    return str(found)
