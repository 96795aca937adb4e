"""speechllm-plugin: a fairseq2 plugin that connects a frozen speech encoder to a frozen LLM through a trained adapter.

    from speechllm_plugin import load_speech_llm
    system = load_speech_llm("runs/demo")
    print(system.transcribe(["clip.wav"]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from speechllm_plugin.errors import UserError
from speechllm_plugin.workarounds.sndfile import preload_sndfile

if TYPE_CHECKING:
    from speechllm_plugin.adapters.api import ADAPTERS, Adapter, AdapterOutput, AdapterShape
    from speechllm_plugin.encoders.api import ENCODERS, SpeechEncoder
    from speechllm_plugin.inference.transcriber import Transcriber, load_speech_llm
    from speechllm_plugin.llms.api import LLMS, Llm
    from speechllm_plugin.llms.decoding import DecodingConfig
    from speechllm_plugin.models.speech_llm.config import SpeechLlmConfig
    from speechllm_plugin.models.speech_llm.model import SpeechLlm
    from speechllm_plugin.prompts import PromptConfig

__all__ = [
    "ADAPTERS", "ENCODERS", "LLMS", "Adapter", "AdapterOutput", "AdapterShape", "DecodingConfig", "Llm", "PromptConfig",
    "SpeechEncoder", "SpeechLlm", "SpeechLlmConfig", "Transcriber", "UserError", "load_speech_llm",
]  # fmt: skip

_HOMES = {
    "adapters.api": ("ADAPTERS", "Adapter", "AdapterOutput", "AdapterShape"),
    "encoders.api": ("ENCODERS", "SpeechEncoder"),
    "inference.transcriber": ("Transcriber", "load_speech_llm"),
    "llms.api": ("LLMS", "Llm"),
    "llms.decoding": ("DecodingConfig",),
    "models.speech_llm.config": ("SpeechLlmConfig",),
    "models.speech_llm.model": ("SpeechLlm",),
    "prompts": ("PromptConfig",),
}

preload_sndfile()


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch, transformers and fairseq2 take seconds, and `--help` should not.
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"speechllm_plugin.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
