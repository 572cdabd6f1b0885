"""From prompts to assets, scores and a leaderboard: jobs, workers, run folders, reports and the command line."""


def __getattr__(name: str) -> str:
    """The version, read when it is asked for."""
    if name == "__version__":
        from sctd import __version__

        return __version__
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
