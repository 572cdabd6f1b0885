import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline import prompts
from pipeline.cli import app as cli
from pipeline.errors import UserError
from pipeline.prompts import suites
from pipeline.prompts.prompt import Prompt
from tests.support.paths import DOCS, FIXTURES


def test_a_file_has_one_prompt_per_line_and_a_short_text_for_the_initialization(tmp_path):
    file = tmp_path / "animals.txt"
    file.write_text("# animals\n\na DSLR photo of a yellow duck | a duck\n  a white  penguin\n", encoding="utf-8-sig")
    assert prompts.suite(str(file)) == [
        Prompt("a-dslr-photo-of-a-yellow-duck", "a DSLR photo of a yellow duck", "a duck"),
        Prompt("a-white-penguin", "a white  penguin", "a white  penguin"),
    ]
    assert prompts.suite_name(str(file)) == "animals"


def test_a_file_never_has_the_name_of_a_bundled_suite(tmp_path):
    assert prompts.suite_name("dreamfusion40") == "dreamfusion40"
    assert prompts.suite_name(str(tmp_path / "dreamfusion40.txt")) == "dreamfusion40-file"
    assert prompts.suite_name("dreamfusion40.txt") == "dreamfusion40-file"


def test_duplicate_prompts_are_dropped_and_ids_are_unique():
    found = prompts.prompts(["a red cube", "a red cube", "A red cube!"])
    assert [prompt.id for prompt in found] == ["a-red-cube", "a-red-cube-2"]
    assert [prompt.text for prompt in found] == ["a red cube", "A red cube!"]


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["a cube", "a cube!", "a cube 2"], ["a-cube", "a-cube-2", "a-cube-2-2"]),
        (["a cube", "a cube 2", "a cube!"], ["a-cube", "a-cube-2", "a-cube-3"]),
    ],
)
def test_a_numbered_id_is_never_that_of_another_prompt(texts, ids):
    assert [prompt.id for prompt in prompts.prompts(texts)] == ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("猫", "猫"),
        ("een café, größer!", "een-cafe-großer"),
        ("Красный_куб", "красный-куб"),
        ("!?", "prompt"),
        ("빨간 컵", "빨간-컵"),
    ],
)
def test_texts_in_any_script_have_readable_ids(text, expected):
    assert prompts.prompts([text])[0].id == expected


@pytest.mark.parametrize("text", ["می\u200cخواهم", "a 👩\u200d🚀 figurine", "a\u00a0red cube", "赤い\u3000猫"])
def test_joiners_and_special_spaces_are_text(text):
    assert prompts.prompts([text])[0].text == text


LIBRARY = {"dreamfusion": ["a red cube", "a blue ball"], "mine": ["a duck"]}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", json.dumps(LIBRARY, indent=1), ["a red cube", "a blue ball", "a duck"]),
        ("b.json", '["a red cube", {"id": 3, "prompt": "a duck"}]', ["a red cube", "a duck"]),
        ("c.jsonl", '{"prompt": "a red cube"}\n\n"a duck"\n', ["a red cube", "a duck"]),
        ("d.csv", 'name,prompt\ncube,a red cube\nball,"a ball, blue"\n', ["a red cube", "a ball, blue"]),
        ("e.tsv", "Prompt\tseed\na red cube\t1\n\t2\n", ["a red cube"]),
        ("f.txt", "[V] dog\na prompt, prompt\n", ["[V] dog", "a prompt, prompt"]),
        ("g.csv", "prompt;seed\na red cube, small;1\n", ["a red cube, small"]),
        ("h.ndjson", '{"prompt": "a red cube"}\n', ["a red cube"]),
        ("i.txt", "- 40 degrees\n* a star\n", ["- 40 degrees", "* a star"]),
    ],
)
def test_files_of_other_formats_are_read(tmp_path, name, content, expected):
    (tmp_path / name).write_text(content, encoding="utf-8-sig")
    assert [prompt.text for prompt in prompts.suite(str(tmp_path / name))] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "is not valid JSON (Expecting property name"),
        ("b.json", '{"a": 1}', 'contains {"a": 1}; expected a list of prompts, or a mapping from names to lists'),
        ("c.json", "[1]", "contains 1; expected a list of prompts"),
        ("d.json", "[]", "contains no prompt"),
        (
            "e.csv",
            "name,text\na,b\n",
            "has no column 'prompt' (columns: name, text); name the column of the prompts so.",
        ),
        (
            "f.txt",
            json.dumps(LIBRARY, indent=1),
            "looks like JSON; write one prompt per line, or name it .json, .jsonl,",
        ),
        ("g.txt", "name,prompt\ncube,a red cube\n", "looks like a table; write one prompt per line"),
        ("h.yaml", "- a red cube\n", "looks like YAML; write one prompt per line"),
        ("i.txt", '{"prompt": "a red cube"}\n{"prompt": "a duck"}\n', "looks like JSON; write one prompt per line"),
        ("j.toml", 'prompts = ["a red cube"]\n', "looks like TOML; write one prompt per line"),
        ("k.txt", "<!DOCTYPE html>\n<p>a red cube</p>\n", "looks like HTML; write one prompt per line"),
        ("l.txt", '<?xml version="1.0"?>\n<prompt/>\n', "looks like XML; write one prompt per line"),
        ("m.md", "# Prompts\n\n* a red cube\n* a duck\n", "looks like a list with bullets; write one prompt per line"),
    ],
)
def test_files_of_unexpected_content_are_errors(tmp_path, name, content, message):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        prompts.suite(str(tmp_path / name))
    assert str(caught.value).startswith(f"{tmp_path / name} {message}")


def test_bundled_suites_have_the_number_of_prompts_in_their_names():
    assert prompts.bundled() == ["dreamfusion40", "dreamfusion415", "embedded40"]
    for name in prompts.bundled():
        found = prompts.suite(name)
        assert len(found) == int(name.lstrip("abcdefghijklmnopqrstuvwxyz"))
        for attribute in ("id", "text"):
            assert len({getattr(prompt, attribute) for prompt in found}) == len(found)


def test_dreamfusion40_prompts_are_from_the_gallery_with_short_texts_for_the_initialization():
    forty, gallery = prompts.suite("dreamfusion40"), prompts.suite("dreamfusion415")
    assert {prompt.text for prompt in forty} <= {prompt.text for prompt in gallery}
    for prompt in forty:
        assert 2 <= len(prompt.shape_text.split()) <= 5
        assert prompt.shape_text != prompt.text
        assert prompt.shape_text.startswith(("a ", "an "))
    assert [prompt.shape_text for prompt in forty[:3]] == ["a peacock", "a stack of pancakes", "a mountain"]


def test_help_names_every_bundled_suite():
    text = CliRunner().invoke(cli.app, ["bench", "--help"], env={"COLUMNS": "200"}).output
    shown = " ".join(text.replace("│", " ").split())
    for name in prompts.bundled():
        assert name in shown
        assert prompts.NOTES.get(name, name) in shown


def test_every_bundled_suite_is_documented_with_its_licence():
    page = (DOCS / "suites.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["embedded40", "dreamfusion40", "dreamfusion415"]
    assert "Apache-2.0" in rows[0]
    assert "Apache-2.0" in rows[2]
    assert "Reconstructed: the authors' list is not public" in rows[1]


GALLERY = FIXTURES / "prompts" / "dreamfusion_gallery.json"


@pytest.mark.skipif(not GALLERY.is_file(), reason="the published gallery list is missing")
def test_the_gallery_is_verbatim_except_for_spaces_at_the_ends():
    published = json.loads(GALLERY.read_text(encoding="utf-8"))["dreamfusion"]
    assert [prompt.text for prompt in prompts.suite("dreamfusion415")] == [text.strip() for text in published]


def test_suites_state_their_origin_licence_and_reconstruction():
    folder = Path(prompts.__file__).parent
    head = "".join((folder / "dreamfusion415.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:4])
    for words in ("threestudio", "Licensed under the Apache License, Version 2.0", "apache.org/licenses/LICENSE-2.0"):
        assert words in head
    assert (
        (folder / "dreamfusion40.txt").read_text(encoding="utf-8").startswith("# Reconstructed, not the authors' list")
    )
    assert prompts.with_note("dreamfusion40") == "dreamfusion40 (reconstructed: the authors' list is not public)"
    assert prompts.with_note("embedded40") == "embedded40"
    assert set(prompts.NOTES) <= set(prompts.bundled())


PRINTED = "which cannot be printed; write it as one line of text."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'The prompt is empty; describe an object, as in "a red mushroom".'),
        ("  ", 'The prompt is empty; describe an object, as in "a red mushroom".'),
        (" | a duck", 'The prompt is empty; describe an object, as in "a red mushroom".'),
        (
            "a" * 5000,
            f"The prompt {'a' * 39 + '…'!r} has 5,000 characters; the limit is 1,000. Shorten it.",
        ),
        (
            "a\x00b",
            r"The prompt 'a\x00b' contains a control character (U+0000), " + PRINTED,
        ),
        (
            "a\u202eb",
            r"The prompt 'a\u202eb' contains RIGHT-TO-LEFT OVERRIDE (U+202E), " + PRINTED,
        ),
    ],
)
def test_invalid_prompts_are_errors(text, message):
    with pytest.raises(UserError) as caught:
        prompts.prompts([text])
    assert str(caught.value) == message


def test_missing_and_unreadable_suites_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "bundled", lambda: ["embedded40", "dreamfusion40"])
    with pytest.raises(UserError) as caught:
        prompts.suite("embeded40")
    assert str(caught.value) == (
        "Unknown prompt suite or file 'embeded40'; pass a text file with one prompt per line, or one of "
        "embedded40, dreamfusion40 (reconstructed: the authors' list is not public); the nearest is 'embedded40'."
    )
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match=r"empty\.txt contains no prompt; write one per line\."):
        prompts.suite(str(tmp_path / "empty.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match=r"bytes\.txt cannot be read as a UTF-8 text file"):
        prompts.suite(str(tmp_path / "bytes.txt"))


@pytest.mark.parametrize("line", ["a cat | a\x1b[31m cat", "a cat |\x00b", "a \u2028cat | b"])
def test_the_short_text_has_no_control_characters_either(line):
    with pytest.raises(UserError, match="which cannot be printed"):
        suites.prompts([line])


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_that_is_nested_too_deeply_is_refused(tmp_path, suffix):
    (tmp_path / f"deep{suffix}").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"is not valid JSON \(it is nested too deeply\)"):
        suites.suite(str(tmp_path / f"deep{suffix}"))


@pytest.mark.parametrize(
    ("texts", "ids"),
    [
        (["a cat", "A cat!", "a cat?"], ["a-cat", "a-cat-2", "a-cat-3"]),
        (["a cat", "A cat!", "a cat 2"], ["a-cat", "a-cat-2", "a-cat-2-2"]),
        (["a cat", "a cat 2", "A cat!"], ["a-cat", "a-cat-2", "a-cat-3"]),
    ],
)
def test_every_prompt_has_an_id_of_its_own(texts, ids):
    assert [prompt.id for prompt in suites.prompts(texts)] == ids
