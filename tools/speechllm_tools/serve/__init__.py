"""`speechllm serve`: a trained system behind the audio API that OpenAI's clients speak."""
