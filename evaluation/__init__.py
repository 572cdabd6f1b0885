"""Metrics: rendered views and text in, numbers out.

CLIP score and R-precision (`clip_score`), ImageReward (`image_reward`), Fréchet and kernel distances to a reference set
(`fid`, `kid`) with their standard errors (`jackknife`), intervals and tests over prompts (`statistics`), and the
rankings of a user study (`ranking`). Nothing here knows how an asset was generated or where the work runs.
"""


class EvaluationError(ValueError):
    """An error that the user can fix: the message says what was found, what was expected and what to do."""
