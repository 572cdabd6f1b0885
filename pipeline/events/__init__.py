"""Progress of a run: the event log, terminal output, experiment tracking, and the status of a run folder."""
