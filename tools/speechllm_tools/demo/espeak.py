"""The synthesiser under its former name, for scripts outside this package."""

from speechllm_tools.speech.espeak import Espeak

__all__ = ["Espeak"]
