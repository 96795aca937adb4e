"""Parts of a speech LLM that come from outside of speechllm-plugin."""
