"""The tasks that a clip may have, one in each file."""
