"""Tables, curves and a page of utterances from runs that are on disk."""
