import pytest

from pipeline import prompts
from pipeline.errors import UserError
from pipeline.jobs import Prompt


def test_a_file_has_one_prompt_a_line_with_a_short_text_for_the_shape(tmp_path):
    file = tmp_path / "animals.txt"
    file.write_text("# animals\n\na DSLR photo of a yellow duck | a duck\n  a white  penguin\n", encoding="utf-8-sig")
    assert prompts.suite(str(file)) == [
        Prompt("a-dslr-photo-of-a-yellow-duck", "a DSLR photo of a yellow duck", "a duck"),
        Prompt("a-white-penguin", "a white  penguin", "a white  penguin"),
    ]
    assert prompts.suite_name(str(file)) == "animals"


def test_a_prompt_that_comes_twice_counts_once_and_ids_stay_apart():
    found = prompts.prompts(["a red cube", "a red cube", "A red cube!"])
    assert [prompt.id for prompt in found] == ["a-red-cube", "a-red-cube-2"]
    assert [prompt.text for prompt in found] == ["a red cube", "A red cube!"]


def test_texts_without_latin_letters_have_an_id_too():
    assert prompts.prompts(["猫"])[0].id == "prompt"


def test_every_packaged_suite_can_be_read():
    for name in prompts.packaged():
        assert len(prompts.suite(name)) >= 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'The prompt is empty; say what the object is, as in "a red mushroom".'),
        ("  ", 'The prompt is empty; say what the object is, as in "a red mushroom".'),
        (" | a duck", 'The prompt is empty; say what the object is, as in "a red mushroom".'),
        (
            "a" * 5000,
            f"The prompt {'a' * 39 + '…'!r} has 5,000 characters; the most is 1,000: shorten it.",
        ),
        ("a\x00b", r"The prompt 'a\x00b' holds a character that cannot be printed; write it on one line as text."),
    ],
)
def test_what_is_no_prompt(text, message):
    with pytest.raises(UserError) as caught:
        prompts.prompts([text])
    assert str(caught.value) == message


def test_what_is_no_suite(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "packaged", lambda: ["embedded40", "dreamfusion40"])
    with pytest.raises(UserError) as caught:
        prompts.suite("embeded40")
    assert str(caught.value) == (
        "There is no suite and no file 'embeded40'; give a text file with one prompt a line, or one of "
        "embedded40, dreamfusion40; the nearest is 'embedded40'."
    )
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"empty\.txt holds no prompt; write one a line\."):
        prompts.suite(str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=r"bytes\.txt cannot be read as a UTF-8 text file"):
        prompts.suite(str(tmp_path / "bytes.txt"))
