"""Experiments on exact scores: the testbed of objectives, and Theorem 1 of the paper."""
