"""Properties of texts that need no LLM: languages, scripts, sentencepiece vocabularies, repetition."""
