"""speechllm-plugin: a fairseq2 plugin that connects a frozen speech encoder to a frozen LLM through a trained adapter."""

from speechllm_plugin.sndfile import preload_sndfile

preload_sndfile()
