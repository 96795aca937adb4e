"""What a training step costs, known before any weight is read."""
