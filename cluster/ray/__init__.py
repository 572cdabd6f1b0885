"""Ray: the executor whose workers are Ray actors, and the launcher of jobs on a running Ray cluster."""
