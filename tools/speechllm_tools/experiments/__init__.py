"""Trainings on the demo, each into one table."""
