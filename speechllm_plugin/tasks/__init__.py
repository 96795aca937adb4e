"""What is asked of a clip: one file a task."""
