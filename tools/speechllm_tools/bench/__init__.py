"""Benchmarks: the kernels, checked and then timed beside their peers in one run; systems; encoder options."""
