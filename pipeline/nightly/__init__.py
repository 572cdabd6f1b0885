"""Nightly runs: pinned baselines, gates, the regression verdict with its reports, and the trend plot."""
