"""Reading opinions: the published layouts, ranks, raters, and files that are refused with a sentence."""

import pytest

from pipeline.errors import UserError
from pipeline.leaderboard.opinions import Opinions, read

COMPBENCH = (
    "model,prompt,Object Alignment,Attribute Alignment,Interaction Alignment,Overall Alignment,Texture Clarity,"
    "Texture Aesthetics,Geometry Loss,Geometry Redundancy,Geometry Roughness,Overall Visual,3D Authentic,"
    "Overall Quality"
)


@pytest.fixture
def of(tmp_path):
    """Read a CSV of this content."""

    def read_content(content: str | bytes, *dimensions: str) -> Opinions:
        path = tmp_path / "o.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read(path, dimensions)

    return read_content


@pytest.fixture
def refused(of, tmp_path):
    def message(*arguments) -> str:
        with pytest.raises(UserError) as error:
            of(*arguments)
        assert len(str(error.value).splitlines()) == 1
        return str(error.value).replace(f"{tmp_path}/", "")

    return message


def test_plain_scores(of):
    found = of("method,prompt,score\nsctd,a red cube,4\nsds,a red cube,2.5\nsds,a blue cube,\n")
    assert found == Opinions("o.csv", {"score": {("sctd", "a red cube"): 4, ("sds", "a red cube"): 2.5}}, False)


def test_layout_of_mate_3d(of):
    found = of('model,prompt,Alignment,Geometry,Texture,Overall\nsjc,"A jacket, blue",4.85,4.117647059,0,0.05\n')
    assert found.dimensions == {
        "Alignment": {("sjc", "A jacket, blue"): 4.85}, "Geometry": {("sjc", "A jacket, blue"): 4.117647059},
        "Texture": {("sjc", "A jacket, blue"): 0}, "Overall": {("sjc", "A jacket, blue"): 0.05},
    }  # fmt: skip


def test_layout_of_t23d_compbench(of):
    """A zero of attribute or interaction alignment says that the prompt has none."""
    found = of(
        f"{COMPBENCH}\n3DTopia,A cup,3,3.666666667,0,3,3,3,3.6,4,4,3,4.3,3.3\nRodin,A cup,5,0,4,0,5,5,5,5,5,5,5,5\n"
    )
    assert len(found.dimensions) == 12
    assert found.dimensions["Attribute Alignment"] == {("3DTopia", "A cup"): 3.666666667}
    assert found.dimensions["Interaction Alignment"] == {("Rodin", "A cup"): 4}
    assert found.dimensions["Overall Alignment"][("Rodin", "A cup")] == 0


def test_dimensions_can_be_chosen(of, refused):
    text = "method,prompt,score,Texture,Geometry,note\na,b,1,2,3,good\n"
    assert list(of(text).dimensions) == ["score"]
    assert list(of(text, "geometry", "Score").dimensions) == ["Geometry", "score"]
    assert refused(text, "Textur") == (
        "o.csv has no dimension 'Textur'; choose from score, Texture, Geometry, note; the nearest is 'Texture'."
    )
    assert "note is 'good'; expected a finite number" in refused(text, "note")
    without_score = "Index,file,method,prompt,Texture,note\n7,a.glb,a,b,2,good\n"
    assert list(of(without_score).dimensions) == ["Texture"]


def test_opinions_are_averages_over_raters(of):
    found = of("rater,method,prompt,score\nx,a,b,0.1\ny,a,b,0.2\nz,a,b,0.3\nx,c,b,0.3\ny,c,b,0.2\nz,c,b,0.1\n")
    assert found.dimensions["score"][("a", "b")] == found.dimensions["score"][("c", "b")] == pytest.approx(0.2)


def test_votes_of_a_study_are_ranks(of, tmp_path):
    votes = "voter,group,prompt,question,method,rank\n" + "".join(
        f"{voter},0,a red cube,{question},{method},{rank}\n"
        for voter, ranks in (("v", (1, 2)), ("w", (2, 1)), ("x", (1, 2)))
        for question in ("q1", "q2")
        for method, rank in zip(("sctd", "sds"), ranks, strict=True)
    )
    found = of(votes)
    assert found.is_ranking
    assert list(found.dimensions) == ["q1", "q2"]
    assert found.dimensions["q1"] == {
        ("sctd", "a red cube"): pytest.approx(-4 / 3), ("sds", "a red cube"): pytest.approx(-5 / 3)
    }  # fmt: skip
    assert list(of(votes, "Q2").dimensions) == ["q2"]
    (tmp_path / "votes.csv").write_text(votes)
    assert read(tmp_path).dimensions == found.dimensions
    assert of("method,prompt,rank\na,b,1\n").dimensions == {"rank": {("a", "b"): -1}}


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffmethod,prompt,score\na,b,4.5\n",
        "Method ; PROMPT ; score\r\na;b;4,5\r\n",
        "method\tprompt\tscore\na\tb\t4.5",
        '\n"method","prompt","score"\n\n"a","b"," 4.5 "\n,,\n',
        "score,prompt,method\n4.5,b,a\n",
    ],
    ids=["byte-order mark", "semicolons and decimal comma", "tabs", "quoted, with empty lines", "other order"],
)
def test_variants_of_csv(of, content):
    assert of(content).dimensions == {"score": {("a", "b"): 4.5}}


EMPTY = "contains no opinions; write a header and a row per asset: method,prompt,score."
COLUMNS = "expected method or model, prompt, and score or a column for each dimension."
FINITE = "expected a finite number, or an empty cell if there is no opinion."
TWICE = "a second opinion on 'b' by 'a'; keep one, or add a column rater."
OTHER = {
    "": f"o.csv {EMPTY}",
    "\n \n": f"o.csv {EMPTY}",
    "method,prompt,score\n": f"o.csv {EMPTY}",
    "method,prompt,score\na,b,\n": f"o.csv {EMPTY}",
    "prompt,score\nb,1\n": f"o.csv has no column 'method' (columns: prompt, score); {COLUMNS}",
    "model,score\na,1\n": f"o.csv has no column 'prompt' (columns: model, score); {COLUMNS}",
    "method,prompt,note\na,b,good\n": f"o.csv has no column 'score' (columns: method, prompt, note); {COLUMNS}",
    "method,prompt,score\na,b,1\nc,d,nan\n": f"o.csv, line 3: score is 'nan'; {FINITE}",
    "method,prompt,score\na,b,1e999\n": f"o.csv, line 2: score is '1e999'; {FINITE}",
    "method,prompt,score\na,b,good\n": f"o.csv, line 2: score is 'good'; {FINITE}",
    "method,prompt,Texture\na,b,1\na,c,n/a\n": f"o.csv, line 3: Texture is 'n/a'; {FINITE}",
    "method,prompt,score\na,a cup, blue,1\n": (
        "o.csv, line 2 has 4 cells and the header 3; quote texts that contain ','."
    ),
    "method,prompt,score\na,b\n": "o.csv, line 2 has 2 cells and the header 3; quote texts that contain ','.",
    "method,prompt,score\n,b,1\n": "o.csv, line 2 names no method or no prompt; fill in both, or remove the row.",
    "method,prompt,score\na,b,1\na,c,1\na,b,2\n": f"o.csv, line 4: {TWICE}",
    "rater,method,prompt,score\nx,a,b,1\nx,a,b,2\n": f"o.csv, line 3: {TWICE}",
    "method,prompt,status,clip@embedded,Mine\na,b,done,3,4\n": (
        "o.csv has scores of metrics (clip@embedded); name the columns of people's opinions with --dimension."
    ),
    "method,prompt,score,Score\na,b,1,2\n": "o.csv has two columns 'score'; rename or remove one.",
    b"\xff\xfem\x00e\x00": (
        "o.csv is not a CSV in UTF-8 ('utf-8' codec can't decode byte 0xff in position 0: invalid start byte); export "
        "it again."
    ),
    'method,prompt,score\na,"b,1\n': "o.csv is not a CSV in UTF-8 (unexpected end of data); export it again.",
    f"method,prompt,score\na,{'b' * 140_000},1\n": (
        "o.csv is not a CSV in UTF-8 (field larger than field limit (131072)); export it again."
    ),
}


@pytest.mark.parametrize("content", OTHER, ids=range(len(OTHER)))
def test_other_files_are_refused(refused, content):
    assert refused(content) == OTHER[content]


def test_paths_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"none.csv cannot be read \(No such file or directory\); pass a CSV of opinions\.$"
    ):
        read(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"is a folder without votes.csv; pass a CSV, or the folder of a study after "):
        read(tmp_path)
