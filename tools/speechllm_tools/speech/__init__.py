"""Turns texts into speech with the embedded synthesiser and its voices, or with any command of the user."""
