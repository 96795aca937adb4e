"""Tensors whatever they stand for: masks, logits over a large vocabulary, precision."""
