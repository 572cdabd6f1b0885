"""Helpers of the tests: tiny models, analytic worlds, fake clusters, processes, paths."""
