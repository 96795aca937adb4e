"""Trains and evaluates every combination of a grid, each a run directory like any other."""
