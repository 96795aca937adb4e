"""Scores, intervals and comparisons of hypotheses that are on disk: no model is run again."""
