"""pipeline.work.importer and pipeline.assets.foreign: files of others → objects in their place."""

import gzip
import io
import json
import math
import struct
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.scheduling.failures import Failure
from pipeline.assets import objects
from pipeline.plan.import_files import digest_of
from pipeline.plan.imports import Entry, ImportJob, Placing
from pipeline.plan.protocol import Protocol
from pipeline.prompts import prompts as prompts_of
from pipeline.store.attempts import Attempt
from pipeline.store.records import ImportFacts
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.work import fronts
from pipeline.work.importer import BALL_RADIUS, Importer
from sctd.formats import gltf, ply, sog, splat, spz
from sctd.formats.axes import axes, transformed
from sctd.scene.enclosing import upright_ball
from tests.support.splats import some_splats

(PROMPT,) = prompts_of(["a red cube"])
SIZE = 16
OBJ = """mtllib m.mtl
v -1 -2 0
v 1 -2 0
v 1 2 0
v -1 2 0
usemtl red
f 1 2 3 4
"""


@pytest.fixture
def importer(tiny_weights, tmp_path):
    return Importer(Store(tmp_path / "run"), models.resolve(str(tiny_weights)), Protocol(4))


def job(path, prompt=PROMPT, **placing):
    entry = Entry(path.name, path if path.exists() else None)
    return ImportJob(prompt, "theirs", entry, digest_of(entry), replace(Placing(), **placing), SIZE, 0, "s")


def run(worker, item):
    """The facts, and the object in the item's folder."""
    work = worker(item)
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value.facts, objects.of_item(worker.store.item(item.id))


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def views(folder, num, size=SIZE, mode="RGB"):
    for number in range(num):
        shade = 10 * number
        colour = (shade, shade, shade) if mode == "RGB" else (shade, shade, shade, 0)
        file = io.BytesIO()
        Image.new(mode, (size, size), colour).save(file, "PNG")
        put(folder / "images" / f"{number:03}.png", file.getvalue())
    return folder


# ---- splats ---------------------------------------------------------------------------------------------------------


def test_a_kept_ply_is_the_same_to_the_bit(importer, tmp_path):
    path = put(tmp_path / "a.ply", ply.to_ply(some_splats(degree=1)))
    facts, _ = run(importer, job(path, fit="keep"))
    assert (importer.store.item(job(path, fit="keep").id) / "asset.ply").read_bytes() == path.read_bytes()
    assert facts == importer.store.generation(job(path, fit="keep").id)
    assert facts == ImportFacts(
        file="a.ply", sha256=digest_of(Entry("a.ply", path)), format="ply", up="z", fit="keep", scale=1.0,
        shift=(0.0, 0.0, 0.0), front_degrees=0.0, front="given", image_size=SIZE, num_gaussians=50, attempt=1,
        warnings=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "write", "up"),
    [
        ("a.glb", gltf.to_glb, "y"),
        ("a.spz", spz.to_spz, "y"),
        ("a.splat", splat.to_splat, "-y"),
        ("a.sog", sog.to_sog, "-y"),
        ("A.COMPRESSED.PLY", ply.to_compressed_ply, "-y"),
    ],
)
def test_splats_of_every_format_are_upright_as_their_format_says(importer, tmp_path, name, write, up):
    ours = some_splats()
    path = put(tmp_path / name, write(transformed(ours, axes(up), 1.0, torch.zeros(3))))
    facts, found = run(importer, job(path, fit="keep"))
    assert (facts.format, facts.up) == (name.lower().partition(".")[2], up)
    means = found.gaussians.means
    distances = torch.cdist(ours.means, means).min(dim=1).values  # a compressed .ply has another order
    assert float(distances.max()) < 5e-3


def test_the_ball_of_the_views_holds_the_object(importer, tmp_path):
    moved = transformed(some_splats(400), torch.eye(3, dtype=torch.float64), 7.0, torch.tensor([5.0, -3.0, 40.0]))
    facts, found = run(importer, job(put(tmp_path / "a.ply", ply.to_ply(moved))))
    ball = upright_ball(found.points)
    assert ball.radius == pytest.approx(BALL_RADIUS, abs=1e-3)
    assert ball.centre == pytest.approx([0, 0, 0], abs=1e-3)
    again = moved.means.double() * facts.scale + torch.tensor(facts.shift)
    assert torch.allclose(again.float(), found.gaussians.means, atol=1e-4)


@pytest.mark.parametrize(("up", "degrees"), [("z", 90), ("y", 30), ("-y", 200)])
def test_a_turned_scaled_and_moved_copy_comes_back(importer, tmp_path, up, degrees):
    ours = some_splats(300, degree=2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=torch.float64)
    copy = transformed(ours, axes(up) @ turn, 3.0, torch.tensor([1.0, 2.0, 3.0]))
    _, first = run(importer, job(put(tmp_path / "a.ply", ply.to_ply(ours))))
    _, second = run(importer, job(put(tmp_path / "b.ply", ply.to_ply(copy)), up=up, front=str(degrees)))
    for name, tensor in first.gaussians.tensors().items():
        if name != "quats":  # of either sign
            assert torch.allclose(tensor, second.gaussians.tensors()[name], atol=1e-4), name
    cameras = Protocol(4).cameras(SIZE)
    assert np.abs(first.views(cameras, "cpu").astype(int) - second.views(cameras, "cpu")).max() <= 1


def test_the_scorer_finds_the_front(importer, tmp_path, monkeypatch):
    path, seen = put(tmp_path / "a.ply", ply.to_ply(some_splats())), []

    def found(similarities):
        seen.append(similarities.shape)
        return fronts.Front(90.0, 0.9)

    monkeypatch.setattr(fronts, "find", found)
    facts, turned = run(importer, job(path, fit="keep", front="auto"))
    assert seen == [(fronts.NUM_VIEWS, 3)]
    assert (facts.front, facts.front_degrees, facts.front_certainty) == ("auto", 90.0, 0.9)
    before, after = some_splats().means, turned.gaussians.means
    assert torch.allclose(torch.stack([before[:, 1], -before[:, 0], before[:, 2]], dim=1), after, atol=1e-6)


def test_an_unclear_front_is_kept(importer, tmp_path, monkeypatch):
    monkeypatch.setattr(fronts, "find", lambda similarities: fronts.Front(90.0, 0.5))
    path = put(tmp_path / "a.ply", ply.to_ply(some_splats()))
    facts, kept = run(importer, job(path, fit="keep", front="auto"))
    assert (facts.front, facts.front_degrees, facts.front_certainty) == ("unclear", 0.0, 0.5)
    assert torch.equal(kept.gaussians.means, some_splats().means)


# ---- meshes and views -----------------------------------------------------------------------------------------------


def test_a_mesh_is_rendered_with_its_material(importer, tmp_path):
    pytest.importorskip("embreex", reason="the extra mesh renders meshes")
    put(tmp_path / "m.mtl", "newmtl red\nKd 1 0 0\n")
    path = put(tmp_path / "a.obj", OBJ)
    facts, found = run(importer, job(path))
    assert (facts.format, facts.up, facts.num_triangles, facts.shading) == ("obj", "y", 2, "unlit")
    assert facts.object_file == "mesh.npz"
    front, *_ = found.views(Protocol(4).cameras(SIZE), "cpu")
    assert front[SIZE // 2, SIZE // 2].tolist() == [255, 0, 0]
    assert front[SIZE // 2, 1].tolist() == [255, 255, 255]
    heights = found.points[:, 2]
    assert heights.max() - heights.min() == pytest.approx(4 * facts.scale, rel=1e-5)
    put(tmp_path / "m.mtl", "newmtl red\nKd 0 1 0\n")
    assert job(path).id != facts.sha256
    assert job(path).sha256 != facts.sha256


def test_ready_made_views_are_resized_and_shown_on_white(importer, tmp_path):
    facts, found = run(importer, job(views(tmp_path / "a", 8, 2 * SIZE, "RGBA")))
    assert (facts.format, facts.num_views, facts.object_file) == ("views", 8, "views.npz")
    assert found.images.shape == (8, SIZE, SIZE, 3)
    assert (found.images == 255).all()


def test_ready_made_views_start_at_the_front(importer, tmp_path):
    _, found = run(importer, job(views(tmp_path / "a", 8), front="90"))
    four = found.views(Protocol(4).cameras(SIZE), "cpu")
    assert [int(view.max()) for view in four] == [20, 40, 60, 0]


# ---- interruptions --------------------------------------------------------------------------------------------------


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_an_interrupted_import_ends_with_the_same_files(importer, tiny_weights, tmp_path):
    item = job(put(tmp_path / "a.ply", ply.to_ply(some_splats())))
    work = importer(item)
    for _ in range(3):
        next(work)  # placed and rendered, then killed
    run(importer, item)
    other = Importer(Store(tmp_path / "other"), models.resolve(str(tiny_weights)), Protocol(4))
    run(other, item)
    first, second = (files_of(worker.store.item(item.id)) for worker in (importer, other))
    assert sorted(first) == ["asset.ply", "contact.png", "generation.json", "turntable.mp4"]
    attempts = [json.loads(files.pop("generation.json")).pop("attempt") for files in (first, second)]
    assert (attempts, first) == ([2, 1], second)


def test_a_finished_import_is_not_done_again(importer, tmp_path, monkeypatch):
    item = job(put(tmp_path / "a.ply", ply.to_ply(some_splats())))
    facts, _ = run(importer, item)
    monkeypatch.setattr(Attempt, "start", None)
    item.entry.path.unlink()
    assert run(importer, item)[0] == facts


# ---- files that cannot be imported ----------------------------------------------------------------------------------


def sog_of(count, member=b"x"):
    file, triple = io.BytesIO(), [0.0, 0.0, 0.0]
    meta = {
        "version": 2, "count": count, "means": {"mins": triple, "maxs": triple, "files": ["a", "a"]},
        "scales": {"codebook": [0.0] * 256, "files": ["a"]}, "quats": {"files": ["a"]},
        "sh0": {"codebook": [0.0] * 256, "files": ["a"]},
    }  # fmt: skip
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", json.dumps(meta))
        archive.writestr("a", member)
    return file.getvalue()


HOSTILE = {
    "empty.ply": b"",
    "no-header.ply": b"ply\n" + b"x" * 100,
    "many.ply": b"ply\nformat binary_little_endian 1.0\nelement vertex 4000000000\nproperty float x\n"
    b"property float f_dc_0\nend_header\n",
    "odd.splat": b"x" * 33,
    "bomb.spz": gzip.compress(struct.pack("<IIIBBBB", 0x5053474E, 3, 2**31, 3, 12, 0, 0) + b"\0" * 2**24),
    "text.spz": b"hello",
    "bomb.sog": sog_of(2**31, b"\0" * 2**24),
    "not-images.sog": sog_of(4),
    "no-zip.sog": b"PK\3\4" + b"x" * 50,
    "length.glb": b"glTF" + struct.pack("<II", 2, 2**32 - 1) + struct.pack("<I4s", 2**32 - 1, b"JSON") + b"{}",
    "none.usdz": b"nothing",
    "nothing.ply": b"ply\nend_header\n",
    "point.splat": splat.to_splat(replace(some_splats(1), log_scales=torch.full((1, 3), -99.0))),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_cannot_be_imported_fails_with_one_sentence(importer, tmp_path, name):
    item = job(put(tmp_path / name, HOSTILE[name]))
    with pytest.raises(ValueError) as caught:
        run(importer, item)
    failure = Failure.of(caught.value)
    assert failure.kind == "input"
    assert failure.message.endswith((".", "?"))
    assert "\n" not in failure.message
    assert len(failure.message) < 400
    assert importer.store.generation(item.id) is None


def test_a_missing_file_of_a_table_fails(importer, tmp_path):
    with pytest.raises(ValueError, match=r"none\.ply does not exist; correct the table of --prompts, or add the file"):
        run(importer, job(tmp_path / "none.ply"))


def test_too_large_files_are_not_read(importer, tmp_path):
    with open(tmp_path / "a.splat", "wb") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match=r"The file has 1,024 MiB; at most 256 are read\."):
        run(importer, replace(job(tmp_path / "none.ply"), entry=Entry("a.splat", tmp_path / "a.splat")))


@pytest.mark.parametrize(
    ("size", "content", "message"),
    [
        ((SIZE, SIZE + 1), None, "has 16 × 17 pixels; expected a square"),
        (None, b"no image", "is no readable image"),
        ((9000, 9000), None, "has 9000 × 9000 pixels; expected a square of at most 67,108,864"),
    ],
)
def test_wrong_views_are_named(importer, tmp_path, size, content, message):
    if content is None:
        file = io.BytesIO()
        Image.new("L", size).save(file, "PNG")
        content = file.getvalue()
    put(tmp_path / "a" / "000.png", content)
    with pytest.raises(ValueError, match=r"The view 000\.png " + message):
        run(importer, job(tmp_path / "a"))


def test_views_that_are_not_scored_are_refused(importer, tmp_path):
    message = "It has 6 ready-made views, which do not include the 4 that are scored; render 4 evenly spaced ones"
    with pytest.raises(ValueError, match=message):
        run(importer, job(views(tmp_path / "a", 6)))


@pytest.mark.parametrize(("name", "named"), [("a.fbx", r"Files \.fbx"), ("asset", "Files without an extension")])
def test_files_of_other_formats_are_refused(importer, tmp_path, name, named):
    put(tmp_path / name, b"Kaydara FBX Binary")
    with pytest.raises(ValueError, match=named + r" are not read; convert it to \.ply, \.glb, "):
        run(importer, replace(job(tmp_path / "none.ply"), entry=Entry(name, tmp_path / name)))


def test_a_folder_with_two_assets_is_refused(importer, tmp_path):
    for name in ("a.ply", "b.ply"):
        put(tmp_path / "duck" / name, b"ply")
    with pytest.raises(ValueError, match="The folder has neither views nor exactly one asset; keep the one that is"):
        run(importer, job(tmp_path / "duck"))
