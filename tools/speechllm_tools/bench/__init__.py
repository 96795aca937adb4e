"""Benchmarks: the kernels, gated on correctness and timed against their peers in the same run; encoder options."""
