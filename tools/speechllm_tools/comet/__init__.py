"""Runs COMET in a process with packages of its own, since pip finds no version of it beside fairseq2."""
