"""What is known of texts without an LLM: languages, scripts, sentencepiece vocabularies, repetition."""
