"""Texts into speech: the embedded synthesiser, its voices, and any command of the user."""
