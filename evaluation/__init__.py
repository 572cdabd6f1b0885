"""Views + text → numbers. Knows neither how an asset was made nor where the work runs."""


class EvaluationError(ValueError):
    """What a user can mend: the message says what was found, what was expected and what to do."""
