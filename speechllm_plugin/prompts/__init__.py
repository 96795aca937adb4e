"""Prompts and their token ids: one renderer for training and for inference."""

from speechllm_plugin.prompts.config import PromptConfig
from speechllm_plugin.prompts.renderer import PromptRenderer, RenderedPrompt
from speechllm_plugin.tasks.row_prompt import SPEECH

__all__ = ["SPEECH", "PromptConfig", "PromptRenderer", "RenderedPrompt"]
