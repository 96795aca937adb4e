"""Makes tables, curves and a page of utterances from runs on disk."""
