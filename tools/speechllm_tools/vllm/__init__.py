"""vLLM, which can write the texts of a trained system, in an environment of its own."""
