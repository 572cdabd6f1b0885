"""The models of a run: the catalogue of published ones, fetching and checking them, and what this machine can run."""
