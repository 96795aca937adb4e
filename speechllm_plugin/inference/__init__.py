"""Turns files or samples into texts and times, with a trained system."""
