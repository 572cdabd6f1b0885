"""Scheduling of a run's work: the executor contract, the scheduler with its retry policy, and its simulation."""
