"""`speechllm inspect`: what a system is made of and what it costs, without its weights."""
