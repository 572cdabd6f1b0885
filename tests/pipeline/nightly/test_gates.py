"""The file of gates: what is packaged, and what is refused."""

import pytest

from pipeline.errors import UserError
from pipeline.nightly import gates
from pipeline.nightly.gates import BETTER, Gate


def test_the_packaged_gates_are_those_of_the_documentation():
    packaged = gates.read(None)
    assert packaged.confidence == 0.95
    assert packaged.gates == {
        "clip": Gate(delta=0.3, standard_errors=1), "ir": Gate(delta=0.05, standard_errors=1),
        "fd": Gate(delta=2.0, standard_errors=2), "fid": Gate(delta=2.0, standard_errors=2),
        "kid_cl": Gate(delta=1.0, standard_errors=2),
        "time": Gate(delta=5.0), "memory": Gate(delta=5.0),
        "loss": Gate(delta=5.0, standard_errors=2),
    }  # fmt: skip
    assert packaged.gates["fd"].margin(0.5) == 2.0
    assert packaged.gates["fd"].margin(1.5) == 3.0
    assert packaged.gates["time"].margin(99.0) == packaged.gates["time"].margin(None) == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clp]\ndelta = 1", f"there is no metric 'clp'; choose from {', '.join(BETTER)}; the nearest is 'clip'."),
        (
            "confidense = 0.9",
            f"there is no metric 'confidense'; choose from {', '.join(BETTER)}; the nearest is 'confidence'.",
        ),
        (
            "[clip]\ndelt = 1\ndelta = 1",
            "unknown key 'clip.delt'; a gate has delta, standard_errors; the nearest is 'delta'.",
        ),
        ("[clip]\ndelta = -1", "clip.delta is -1: it should be greater than 0."),
        ("[clip]\n", "clip has no delta; a gate has delta, standard_errors."),
        ("clip = 3", "clip is 3: it should be a valid dictionary or instance of Gate."),
        ("confidence = 95", "confidence is 95; give 0.5 to less than 1, as 0.95."),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text, message, tmp_path):
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        gates.read(tmp_path / "gates.toml")
    assert str(caught.value) == f"{tmp_path}/gates.toml: {message}"


@pytest.mark.parametrize("text", [None, "[clip"])
def test_a_file_that_cannot_be_read(text, tmp_path):
    if text:
        (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(
        UserError, match=r"gates.toml cannot be read as gates \(.*\); write TOML as in docs/nightly.md."
    ):
        gates.read(tmp_path / "gates.toml")
