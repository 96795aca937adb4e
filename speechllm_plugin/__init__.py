"""speechllm-plugin: a fairseq2 plugin that connects a frozen speech encoder to a frozen LLM through a trained adapter.

    from speechllm_plugin import load_speech_llm
    model = load_speech_llm("runs/demo")
    print(model.transcribe(["clip.wav"]))
"""

from typing import Any

from speechllm_plugin.sndfile import preload_sndfile

__all__ = ["load_speech_llm"]

preload_sndfile()


def __getattr__(name: str) -> Any:
    # Imported when asked for: torch, transformers and fairseq2 take seconds, and `--help` should not.
    if name == "load_speech_llm":
        from speechllm_plugin.models.speech_llm.checkpoint import load_speech_llm

        return load_speech_llm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
