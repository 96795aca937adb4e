"""What runs inside vLLM: the folder is a path of its own for modules there, so it imports nothing of ours."""
