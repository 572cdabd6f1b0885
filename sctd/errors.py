"""The base class of the errors of `sctd`."""


class SctdError(ValueError):
    """Base of all errors that `sctd` raises itself: what was found, what was expected and what to do."""
