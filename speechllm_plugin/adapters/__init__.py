"""Adapters: encoder features in, embeddings of the LLM's width out. The only part that is trained."""
