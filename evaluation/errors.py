"""The base class of the errors of `evaluation`."""


class EvaluationError(ValueError):
    """An error that the user can fix: the message says what was found, what was expected and what to do."""
