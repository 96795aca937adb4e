"""`speechllm serve`: serves a trained system over the audio API that OpenAI's clients use."""
