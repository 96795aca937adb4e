"""What fairseq2's trainer, evaluator and generator run on each batch."""
