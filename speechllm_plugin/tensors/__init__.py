"""General tools for tensors: masks, logits over a large vocabulary, precision."""
