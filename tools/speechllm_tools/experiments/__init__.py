"""Experiments that train on the demo's data, each with one table of results."""
