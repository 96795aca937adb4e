"""COMET, in a process of its own with packages of its own: pip finds no versions of it beside fairseq2."""
