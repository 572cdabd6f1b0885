"""Scheduling of a run's work: the executor protocol, the scheduler with its retry policy, and its simulation."""
