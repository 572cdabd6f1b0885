"""The plan of a run: jobs, recipes and sweeps from the command line, the evaluation protocol, and checks."""
