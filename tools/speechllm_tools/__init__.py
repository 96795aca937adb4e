"""speechllm-plugin."""
