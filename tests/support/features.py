"""Synthetic features of views for the tests of distances: correlated within an object, paired by prompt."""

import math


def correlated_objects(random, objects, views, dim, correlation):
    """Standard normal features, correlated among the views of one object: a perfect model of the standard normal."""
    shared = random.normal(size=(objects, 1, dim))
    own = random.normal(size=(objects, views, dim))
    return list(math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own)


def paired_runs(random, shift=0.0, prompts=12, views=20, dim=8):
    """Two runs over the same prompts: each prompt has its own centre, and the first run is offset by `shift`."""
    centres = random.normal(0, 1.0, (prompts, 1, dim))

    def run(offset):
        assets = centres + offset + random.normal(0, 0.3, (prompts, 1, dim))
        return list(assets + random.normal(0, 0.5, (prompts, views, dim)))

    return run(shift), run(0.0)
