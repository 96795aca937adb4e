"""Microbenchmarks of the kernels: declared once, gated on correctness, timed against their peers in the same run."""
