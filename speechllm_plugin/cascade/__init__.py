"""The baseline without an adapter: a recogniser writes the speech down, an LLM works on the text."""
