"""Benchmarks of the program: the time of an iteration, scaling over workers, and models of the published sizes."""
