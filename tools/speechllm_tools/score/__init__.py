"""Scores, intervals and comparisons of hypotheses on disk; no model is run again."""
