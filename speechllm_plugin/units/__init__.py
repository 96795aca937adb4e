"""The units that fairseq2 runs, one for each action, and the model's setup for its trainer."""
