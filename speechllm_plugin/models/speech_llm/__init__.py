"""`SpeechLlm`: encoder + adapter + LLM + prompt."""
