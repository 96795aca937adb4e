"""LLMs: speech embeddings and text prompts in, loss or text out."""
