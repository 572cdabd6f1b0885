"""The gates file: bundled gates, and invalid files."""

import pytest

from pipeline.errors import UserError
from pipeline.nightly import gates
from pipeline.nightly.gates import GATED, Gate


def test_bundled_gates():
    bundled = gates.read(None)
    assert bundled.confidence == 0.95
    assert bundled.gates == {
        "clip": Gate(delta=0.3, standard_errors=1), "ir": Gate(delta=0.05, standard_errors=1),
        "fd": Gate(delta=2.0, standard_errors=2), "fid": Gate(delta=2.0, standard_errors=2),
        "kid_cl": Gate(delta=1.0, standard_errors=2),
        "time": Gate(delta=5.0), "memory": Gate(delta=5.0),
        "loss": Gate(delta=5.0, standard_errors=2),
    }  # fmt: skip
    assert bundled.gates["fd"].margin(0.5) == 2.0
    assert bundled.gates["fd"].margin(1.5) == 3.0
    assert bundled.gates["time"].margin(99.0) == bundled.gates["time"].margin(None) == 5.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[clp]\ndelta = 1", f"unknown metric 'clp'; choose from {', '.join(GATED)}; the nearest is 'clip'."),
        (
            "confidense = 0.9",
            f"unknown metric 'confidense'; choose from {', '.join(GATED)}; the nearest is 'confidence'.",
        ),
        (
            "[clip]\ndelt = 1\ndelta = 1",
            "unknown key 'clip.delt'; a gate has delta, standard_errors; the nearest is 'delta'.",
        ),
        ("[clip]\ndelta = -1", "clip.delta is -1: it should be greater than 0."),
        ("[clip]\n", "clip has no delta; a gate has delta, standard_errors."),
        ("clip = 3", "clip is 3: it should be a valid dictionary or instance of Gate."),
        ("confidence = 95", "confidence is 95; expected at least 0.5 and less than 1, for example 0.95."),
    ],
)
def test_invalid_gates_are_refused(text, message, tmp_path):
    (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(UserError) as caught:
        gates.read(tmp_path / "gates.toml")
    assert str(caught.value) == f"{tmp_path}/gates.toml: {message}"


@pytest.mark.parametrize("text", [None, "[clip"])
def test_unreadable_file_is_refused(text, tmp_path):
    if text:
        (tmp_path / "gates.toml").write_text(text)
    with pytest.raises(
        UserError, match=r"gates.toml is not a valid gates file \(.*\); write TOML as shown in docs/nightly.md."
    ):
        gates.read(tmp_path / "gates.toml")
