import pytest

from pipeline.errors import UserError
from pipeline.plan import score_at


def test_shares_are_sorted_and_end_with_the_finished_asset():
    assert score_at.parse("0.5, 0.25,0.5") == (0.25, 0.5, 1.0)
    assert score_at.parse("1") == (1.0,)
    assert score_at.joined((0.25, 1.0), (0.1, 1.0)) == (0.1, 0.25, 1.0)


@pytest.mark.parametrize(
    "text",
    ["", "0", "0.5,", "1.01", "-0.5", "half", "nan", "inf", "0.5;1", ",".join(f"0.{n:03}" for n in range(1, 34))],
)
def test_other_values_are_one_sentence(text):
    with pytest.raises(UserError) as caught:
        score_at.parse(text)
    named = text if len(text) <= 40 else f"{text[:39]}…"
    assert str(caught.value) == (
        f"--score-at is {named!r}; expected up to 32 shares of the iterations, above 0 and at most 1, such as "
        "0.25,0.5,1."
    )


def test_snapshots_are_after_the_nearest_iteration_and_before_the_end():
    assert score_at.snapshots((0.25, 0.5, 1.0), 40) == [10, 20]
    assert score_at.snapshots((0.001, 0.34, 0.36, 0.99, 1.0), 10) == [1, 3, 4], "at least the first; 0.99 is the end"
