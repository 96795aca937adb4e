"""An LLM whose layers run in a vLLM server: embeddings go there, tokens come back."""
