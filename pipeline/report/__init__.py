"""Report pages, asset viewer, live view, and the publication of a run's tables and images."""
