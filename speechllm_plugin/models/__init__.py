"""The fairseq2 model family."""
