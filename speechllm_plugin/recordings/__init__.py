"""Recordings longer than an encoder's window: cut at pauses, joined again, written for players."""
