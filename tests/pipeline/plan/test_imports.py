import dataclasses

import pytest

from pipeline.errors import UserError
from pipeline.plan import import_files
from pipeline.plan.imports import Entry, ImportJob, ImportOptions, Placing, Source
from pipeline.prompts import prompts as prompts_of

CAR, CUBE = prompts_of(["a red car", "a blue cube"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "assets").mkdir()
    return tmp_path / "assets"


def source(folder, prompts=None, **placing):
    return Source(folder, "theirs", prompts, Placing(**placing))


def put(folder, *names, content=b"x"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def names(matched):
    return [(prompt.text, entry.name) for prompt, entry in matched.entries]


# ---- options --------------------------------------------------------------------------------------------------------


def test_each_folder_is_a_method_with_its_own_options():
    options = ImportOptions(assets=["a", "b"], method=["A", "B"], up=["z", "-y"], front=["auto"], prompts=["p.csv"])
    first, second = options.sources()
    assert (first.method, first.prompts, first.placing) == ("A", "p.csv", Placing("z", "auto", "ball", "unlit"))
    assert (second.method, second.prompts, second.placing) == ("B", "p.csv", Placing("-y", "auto", "ball", "unlit"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assets": None}, "--method requires --assets"),
        ({"method": None}, "--assets was passed 2 times and --method 0 times"),
        ({"method": ["A", "A"]}, "--method 'A' was passed twice"),
        ({"method": ["A", " "]}, "--method is ' '; expected a name"),
        ({"up": ["z", "y", "z"]}, "--up was passed 3 times for 2 folders"),
        ({"up": ["x"]}, "Unknown value 'x' for --up; choose from z, y, -y"),
        ({"front": ["left"]}, "--front is 'left'; expected degrees"),
        ({"front": ["nan"]}, "--front is 'nan'; expected degrees"),
        ({"fit": ["box"]}, "Unknown value 'box' for --fit"),
        ({"shading": ["dark"]}, "Unknown value 'dark' for --shading"),
    ],
)
def test_wrong_options_are_named(changes, message):
    options = ImportOptions(**{"assets": ["a", "b"], "method": ["A", "B"]} | changes)
    with pytest.raises(UserError, match=message):
        options.sources()


def test_degrees_are_those_of_one_turn():
    assert Placing.of(None, "-90", None, None).front == "270"
    assert Placing.of(None, "450.5", None, None).front == "90.5"


# ---- names ----------------------------------------------------------------------------------------------------------


def test_files_are_matched_by_the_names_of_exports_and_by_ids(folder):
    put(folder, "a-red-car.compressed.ply", "a-blue-cube.obj", "a-blue-cube.mtl", ".hidden.ply", "notes.txt")
    assert names(import_files.match(source(folder), [CAR, CUBE])) == [
        ("a red car", "a-red-car.compressed.ply"),
        ("a blue cube", "a-blue-cube.obj"),
    ]


def test_spaces_underscores_and_capitals_do_not_matter(folder):
    put(folder, "A red_car.SPLAT")
    assert names(import_files.match(source(folder), [CAR, CUBE])) == [("a red car", "A red_car.SPLAT")]


def test_without_prompts_the_bundled_suites_are_compared(folder):
    put(folder, "a-red-mushroom.spz", "a-zebra-reading-a-book.ply")
    matched = import_files.match(source(folder), None)
    assert {"a red mushroom"} <= {prompt.text for prompt, _ in matched.entries}


def test_folders_have_views_or_one_file(folder):
    put(folder, "a-red-car/images/001.png", "a-red-car/images/000.png", "a-blue-cube/model.obj", "a-blue-cube/x.mtl")
    matched = import_files.match(source(folder), [CAR, CUBE])
    (_, car), (_, cube) = matched.entries
    assert (car.path, cube.path) == (folder / "a-red-car", folder / "a-blue-cube" / "model.obj")
    assert [path.name for path in import_files.views_in(car.path)] == ["000.png", "001.png"]


def test_what_is_left_out_is_said_in_a_sentence(folder, tmp_path):
    put(folder, "a-red-car.ply", "what.ply", "two/a.ply", "two/b.ply")
    (tmp_path / "suite.txt").write_text("a red car\na blue cube\n")
    matched = import_files.match(source(folder, str(tmp_path / "suite.txt")), None)
    assert names(matched) == [("a red car", "a-red-car.ply")]
    assert matched.notes == [
        f"what.ply in {folder} match no prompt and are left out.",
        "theirs has no file for 'a blue cube': compared over fewer prompts.",
    ]


def test_prompts_that_a_run_does_not_have_are_left_out(folder, tmp_path):
    put(folder, "a-red-car.ply", "a-blue-cube.ply")
    (tmp_path / "suite.txt").write_text("a red car\na blue cube\n")
    matched = import_files.match(source(folder, str(tmp_path / "suite.txt")), [CAR])
    assert names(matched) == [("a red car", "a-red-car.ply")]
    assert matched.notes == [f"a-blue-cube.ply in {folder} are for prompts that the run does not have: left out."]


def test_a_prompt_with_two_files_is_an_error(folder):
    put(folder, "a-red-car.ply", "a-red-car.glb")
    with pytest.raises(UserError, match=r"two files for .a red car.: a-red-car\.glb and a-red-car\.ply; keep one"):
        import_files.match(source(folder), [CAR])


@pytest.mark.parametrize("found", [(), ("what.ply",)])
def test_a_folder_without_a_match_is_an_error(folder, found):
    put(folder, *found)
    with pytest.raises(UserError, match="has a name that matches a prompt"):
        import_files.match(source(folder), [CAR])


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(UserError, match="is not a folder; pass the folder of a method's files with --assets"):
        import_files.match(source(tmp_path / "none"), [CAR])


# ---- tables ---------------------------------------------------------------------------------------------------------


def table(tmp_path, text):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    return str(tmp_path / "t.csv")


def test_a_table_names_the_files(folder, tmp_path):
    put(folder, "1.ply", "sub/2.glb", "Cat.ply")
    listed = table(tmp_path, 'file,prompt\n1.ply,"a red car"\nsub/2.glb,a blue cube\ncat.ply,a cat\n1.ply,a car\n')
    matched = import_files.match(source(folder, listed), None)
    assert names(matched) == [
        ("a red car", "1.ply"),
        ("a blue cube", "sub/2.glb"),
        ("a cat", "cat.ply"),
        ("a car", "1.ply"),
    ]
    assert matched.entries[2][1].path is None
    assert matched.notes == [
        f"Cat.ply in {folder} are not in {listed} and are left out.",
        f"cat.ply of {listed} do not exist in {folder}; the nearest is 'Cat.ply': failed.",
        f"1.ply of {listed} are for several prompts: scored for each.",
    ]


def test_prompts_of_a_table_have_ids_of_their_own(folder, tmp_path):
    put(folder, "1.ply", "2.ply")
    matched = import_files.match(source(folder, table(tmp_path, "prompt;file\na car!;1.ply\na car?;2.ply\n")), None)
    assert [prompt.id for prompt, _ in matched.entries] == ["a-car", "a-car-2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,text\n1.ply,a\n", "has a column file and none prompt"),
        ("file,prompt\n1.ply,\n", "has the row '1.ply', ''"),
        ("file,prompt\n../1.ply,a car\n", "has the row '../1.ply'"),
        ("file,prompt\n1.ply,a car\n2.ply,a car\n", "two files for 'a car': 1.ply and 2.ply"),
    ],
)
def test_wrong_tables_are_named(folder, tmp_path, text, message):
    put(folder, "1.ply", "2.ply")
    with pytest.raises(UserError, match=message):
        import_files.match(source(folder, table(tmp_path, text)), None)


def test_a_csv_without_files_is_a_suite(folder, tmp_path):
    put(folder, "a-red-car.ply")
    assert names(import_files.match(source(folder, table(tmp_path, "prompt\na red car\n")), None)) == [
        ("a red car", "a-red-car.ply")
    ]


# ---- identity -------------------------------------------------------------------------------------------------------


def job(**changes):
    known = {
        "prompt": CAR, "method": "theirs", "entry": Entry("a.ply", None), "sha256": "0", "placing": Placing(),
        "size": 64, "seed": 0, "scorer": "s",
    }  # fmt: skip
    return ImportJob(**known | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": CUBE},
        {"method": "others"},
        {"sha256": "1"},
        {"size": 32},
        *({"placing": dataclasses.replace(Placing(), **{key: value})} for key, value in
          {"up": "y", "front": "90", "fit": "keep", "shading": "lit"}.items()),
    ],
)  # fmt: skip
def test_everything_that_changes_the_asset_changes_its_id(changes):
    assert job(**changes).id != job().id


def test_the_scorer_counts_only_if_it_finds_the_front():
    assert job(scorer="t").id == job().id == job(entry=Entry("b.ply", None)).id
    auto = Placing(front="auto")
    assert job(placing=auto, scorer="t").id != job(placing=auto).id


def test_digests_include_what_a_mesh_may_refer_to(folder):
    put(folder, "a.obj", "a.mtl", "b.ply", "c/000.png", "c/001.png")
    entries = [Entry(name, folder / name) for name in ("a.obj", "b.ply", "c")]
    before = [import_files.digest_of(entry) for entry in entries]
    put(folder, "a.mtl", "c/001.png", content=b"y")
    after = [import_files.digest_of(entry) for entry in entries]
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, False]
