"""What fairseq2 runs: a unit for each action, which takes each batch, and what is done to the model for it."""
