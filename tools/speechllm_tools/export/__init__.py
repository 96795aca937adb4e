"""Trained systems as files of other programs."""
