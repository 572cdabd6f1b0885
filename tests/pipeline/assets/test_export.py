"""segmentdreamer export: selection of the asset, contents of the files, errors and warnings."""

import io
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData, PlyElement
from typer.testing import CliRunner

from pipeline.assets import export as flow
from pipeline.cli.app import app
from pipeline.errors import UserError
from pipeline.report import viewer
from pipeline.store.run_folder import Store
from sctd.formats import gltf, ply, splat, spz
from sctd.formats.axes import axes, rotated
from sctd.render import nerf_file
from sctd.render.hash_grid import Levels
from sctd.render.nerf import Field, Lit, Nerf, Occupancy
from sctd.render.nerf_export import to_gaussians
from sctd.scene.gaussians import Gaussians, rgb_to_sh
from tests.support import runs
from tests.support.splats import compressed, read_with_gaussforge, some_splats

FRONT, LEFT, UP = torch.eye(3)


def signposts() -> Gaussians:
    """A large red Gaussian at the front, a green one on the left and a blue one on top."""
    return Gaussians(
        means=0.5 * torch.stack([FRONT, LEFT, UP]),
        log_scales=torch.full((3, 3), -1.6),
        quats=torch.tensor([[1.0, 0, 0, 0]]).expand(3, 4),
        logit_opacities=torch.full((3,), 5.0),
        sh=rgb_to_sh(torch.eye(3))[:, None],
    )


@pytest.fixture
def asset(tmp_path) -> Path:
    (tmp_path / "signs.ply").write_bytes(ply.to_ply(signposts()))
    return tmp_path / "signs.ply"


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder of three jobs, two of them finished."""
    root = tmp_path / "run"
    jobs = [("aa11", "a red cube", "sctd"), ("ab22", "a red cube", "sds"), ("cc33", "a blue ball", "sctd")]
    for job_id, _, _ in jobs[:2]:
        (root / "items" / job_id).mkdir(parents=True)
        (root / "items" / job_id / "asset.ply").write_bytes(ply.to_ply(signposts()))
    runs.manifest(Store(root), [runs.job(*about) for about in jobs])
    return root


def export(*arguments: object) -> tuple[str, str]:
    """Output and errors of a successful command."""
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def refused(*arguments: object) -> str:
    """The error line of a command that exits with status 2 and prints nothing else."""
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


# ---- contents ------------------------------------------------------------------------------------------------------


def test_every_format_has_its_own_axes(asset, tmp_path):
    wanted = [f"--to={kind}" for kind in ("ply", "compressed.ply", "splat", "spz", "sog", "glb")]
    (tmp_path / "out").mkdir()
    stdout, stderr = export(asset, *wanted, "--out", tmp_path / "out")
    assert stderr == ""
    tmp_path = tmp_path / "out"
    for kind, up in {"compressed.ply": "-y", "splat": "-y", "spz": "y", "sog": "-y"}.items():
        found = read_with_gaussforge((tmp_path / f"signs.{kind}").read_bytes(), kind)
        found = found.select(found.sh[:, 0].argmax(0))  # red, green, blue
        torch.testing.assert_close(found.means @ axes(up).float(), signposts().means, atol=1e-3, rtol=0)
    (cloud,) = trimesh.load_scene(tmp_path / "signs.glb").dump()
    np.testing.assert_allclose(
        cloud.vertices, [[0, 0, 0.5], [0.5, 0, 0], [0, 0.5, 0]], atol=1e-6
    )  # glTF: front +z, up +y
    assert [line.split()[0] for line in stdout.splitlines()] == [
        str(tmp_path / f"signs.{kind}") for kind in ("ply", "compressed.ply", "splat", "spz", "sog", "glb")
    ]


def test_ply_equals_the_asset_unless_up_is_given(asset, tmp_path):
    (tmp_path / "out").mkdir()
    export(asset, "--to", "ply", "--out", tmp_path / "out")
    assert (tmp_path / "out" / "signs.ply").read_bytes() == asset.read_bytes()
    export(asset, "--to", "ply", "--up", "-y", "--out", tmp_path / "down.ply")
    vertices = PlyData.read(tmp_path / "down.ply")["vertex"]
    np.testing.assert_allclose(vertices["y"], [0, 0, -0.5], atol=1e-6)
    np.testing.assert_allclose(vertices["z"], [-0.5, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("kind", "options"), [("obj", []), ("glb", ["--mesh"])])
def test_mesh_has_colours_on_the_right_sides(asset, tmp_path, monkeypatch, kind, options):
    monkeypatch.setattr(flow, "MESH_CELLS", 32)
    export(asset, "--to", kind, *options, "--out", tmp_path / f"mesh.{kind}")
    mesh = trimesh.load(tmp_path / f"mesh.{kind}", force="mesh", process=False)
    assert mesh.is_watertight
    assert mesh.volume > 0
    for axis, color in ((2, 0), (0, 1), (1, 2)):  # front +z is red, the object's left +x green, up +y blue
        tip = mesh.vertices[:, axis].argmax()
        assert mesh.visual.vertex_colors[tip, :3].argmax() == color


def test_videos_and_images_can_be_read(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(flow, "TURNTABLE_VIEWS", 12)
    monkeypatch.setattr(flow, "GIF_VIEWS", 8)
    export(asset, "--to=mp4", "--to=gif", "--to=png", "--size=64", "--out", tmp_path)
    read = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "signs.mp4", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    video = np.frombuffer(subprocess.run(read, capture_output=True, check=True).stdout, np.uint8)
    video = video.reshape(12, 256, 256, 3)
    gif = opened(tmp_path / "signs.gif")
    assert (gif.n_frames, gif.size, gif.info["loop"]) == (8, (64, 64), 0)
    sheet = opened(tmp_path / "signs.png")
    assert sheet.width > 8 * sheet.height / 2
    assert strongest(video[0]) == strongest(np.asarray(gif.convert("RGB"))) == 0


def opened(path: Path) -> Image.Image:
    return Image.open(io.BytesIO(path.read_bytes()))


def strongest(view: np.ndarray) -> int:
    """The strongest channel at the centre of a view."""
    height, width, _ = view.shape
    middle = view[height // 2 - 2 : height // 2 + 2, width // 2 - 2 : width // 2 + 2].reshape(-1, 3)
    return int(middle.astype(int).mean(0).argmax())


def test_a_page_has_the_prompt_as_its_title_and_a_compressed_asset_in_our_axes(run, tmp_path, monkeypatch):
    pages = []
    monkeypatch.setattr(viewer, "standalone", lambda: lambda asset, title: pages.append((asset, title)) or b"<p>")
    export(run, "--job=aa11", "--to=html", "--out", tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == b"<p>"
    ((asset, title),) = pages
    assert title == "a red cube"
    assert ply.is_compressed(asset)
    found = ply.from_ply(asset)
    assert found.means.norm(dim=1).tolist() == pytest.approx([0.5] * 3, abs=1e-3)
    assert found.means[found.sh[:, 0, 0].argmax()].tolist() == pytest.approx([0.5, 0, 0], abs=1e-3)


def test_a_page_without_a_viewer_is_refused_before_the_asset_is_read(tmp_path, monkeypatch):
    (tmp_path / "bad.ply").write_bytes(b"text")

    def missing():
        raise UserError("The viewer is missing.")

    monkeypatch.setattr(viewer, "standalone", missing)
    assert refused(tmp_path / "bad.ply", "--to=html") == "Error: The viewer is missing."


def test_azimuth_gives_one_view(asset, tmp_path):
    for azimuth, channel in ((0, 0), (90, 1)):
        export(asset, "--to=png", "--size=64", "--azimuth", azimuth, "--out", tmp_path / f"{azimuth}.png")
        view = opened(tmp_path / f"{azimuth}.png")
        assert view.size == (64, 64)
        assert strongest(np.asarray(view)) == channel


def test_omitted_spherical_harmonics_are_a_warning(tmp_path):
    (tmp_path / "shiny.ply").write_bytes(ply.to_ply(some_splats(5, degree=2)))
    _, stderr = export(tmp_path / "shiny.ply", "--to=splat", "--to=sog", "--to=spz", "--to=glb", "--out", tmp_path)
    assert stderr.splitlines() == [
        f"shiny.{kind} omits the spherical harmonics of degree 1 to 2: a .{kind} has one colour for all directions "
        "(.ply, .spz and .glb keep them)."
        for kind in ("splat", "sog")
    ]
    assert splat.from_splat((tmp_path / "shiny.splat").read_bytes()).sh_degree == 0
    assert spz.from_spz((tmp_path / "shiny.spz").read_bytes()).sh_degree == 2
    kept = rotated(gltf.from_glb((tmp_path / "shiny.glb").read_bytes()), axes("y").T)
    torch.testing.assert_close(kept.sh, some_splats(5, degree=2).sh, atol=1e-5, rtol=0)


# ---- selection ----------------------------------------------------------------------------------------------------


def test_asset_is_a_file_an_item_or_selected_from_a_run(run, asset):
    item = run / "items" / "aa11"
    for found in (
        flow.find_asset(item, None, None),
        flow.find_asset(item / "asset.ply", None, None),
        flow.find_asset(run, "a red cube", "aa"),
        flow.find_asset(run, "a-red-cube", "aa11"),
    ):
        assert found == flow.AssetFile(item / "asset.ply", "a-red-cube-sctd", "a red cube")
    assert flow.find_asset(asset, None, None) == flow.AssetFile(asset, "signs", "signs")


def test_ambiguous_and_missing_assets_are_errors(run, tmp_path):
    assert refused(run, "--to=ply") == (
        f"Error: {run} has 2 assets; choose one with --prompt or --job: aa11 'a red cube' by sctd; ab22 'a red cube' "
        "by sds."
    )
    assert refused(run, "--to=ply", "--prompt", "a green cone") == (
        f"Error: {run} has no asset for --prompt 'a green cone'; its prompts are 'a red cube', 'a blue ball'."
    )
    assert refused(run, "--to=ply", "--job", "cc33") == (
        f"Error: {run} has no finished asset for 'a blue ball'; finish the run first."
    )
    assert refused(tmp_path, "--to=ply") == (
        f"Error: {tmp_path} is not an asset; expected a file of Gaussians (.ply, .splat, .spz, .sog, .glb, .usda, "
        ".usdc, .usdz), an item's folder with asset.ply, or a run folder with run.json."
    )
    assert refused(tmp_path / "gone.ply", "--to=ply").startswith(f"Error: {tmp_path / 'gone.ply'} does not exist; pass")


def test_names_tell_assets_of_one_prompt_apart(tmp_path):
    store = Store(tmp_path / "run")
    jobs = [
        ("aa11", "a cube", "sctd"),
        ("bb22", "a cube", "sds"),
        ("cc33", "a ball", "sds"),
        ("dd44", "A ball!", "sds"),
    ]
    for job_id, _, _ in jobs:
        (store.item(job_id)).mkdir(parents=True)
        (store.item(job_id) / "asset.ply").write_bytes(ply.to_ply(signposts()))
    runs.manifest(store, [runs.job(*about) for about in jobs])
    names = [flow.find_asset(store.item(job_id), None, None).name for job_id, _, _ in jobs]
    assert names == ["a-cube-sctd", "a-cube-sds", "a-ball-cc33", "a-ball-dd44"]


# ---- input ----------------------------------------------------------------------------------------------------------


def test_an_asset_of_a_custom_representation_is_refused_with_its_reason(run, tmp_path):
    item = run / "items" / "cc33"
    item.mkdir()
    for name in ("tensors.safetensors", "views.npz"):
        (item / name).write_bytes(b"")
    for source in (item, item / "tensors.safetensors", run):
        choice = ["--prompt", "a blue ball"] if source == run else []
        reason = (
            f"{item} has an asset of a custom representation, which cannot be exported or viewed; turntable.mp4 and"
        )
        assert reason in refused(source, *choice, "--to", "png")
    viewed = CliRunner().invoke(app, ["view", str(item), "--no-browser"])
    assert viewed.exit_code == 2
    assert "has an asset of a custom representation" in viewed.stderr


def test_a_radiance_field_becomes_gaussians_and_is_pictured_itself(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    field = Nerf.random(Field(Levels(2, 4, 8, 8, 2), 4, 1.0, 60.0, 0.5), torch.Generator().manual_seed(0))
    lit = Lit(field, Occupancy(torch.ones(4, 4, 4), 0.5), 64)
    item = run / "items" / "cc33"
    item.mkdir()
    (item / "asset.safetensors").write_bytes(nerf_file.to_bytes(lit))
    for source in (item, item / "asset.safetensors", run):
        choice = ["--prompt", "a blue ball"] if source == run else []
        _, errors = export(source, *choice, "--to", "ply", "--to", "glb", "--to", "png", "--size", "64")
        found = ply.from_ply((tmp_path / "a-blue-ball.ply").read_bytes())
        assert f"A NeRF becomes {found.num:,} Gaussians, one per visible cell, in .ply, .glb." in errors
        assert rows_equal(found, to_gaussians(lit))
        assert gltf.from_glb((tmp_path / "a-blue-ball.glb").read_bytes()).num == found.num
        sheet = np.asarray(opened(tmp_path / "a-blue-ball.png"))
        grey = sheet[64, 64].astype(int)
        assert abs(grey - 128).max() < 12, "the untrained blob is grey, as the field renders it"
    assert export(item, "--to", "png", "--to", "glb", "--mesh", "--to", "obj")[1] == ""
    whole = trimesh.load(tmp_path / "a-blue-ball.glb", force="mesh")
    assert whole.is_watertight
    assert 0.3 < np.linalg.norm(whole.vertices, axis=1).mean() < 0.6
    (item / "asset.safetensors").write_bytes(b"something else")
    assert "asset.safetensors cannot be read. The file is not a NeRF of this program (" in refused(item, "--to", "ply")


def rows_equal(left: Gaussians, right: Gaussians) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.tensors().values(), right.tensors().values(), strict=True))


def test_the_longest_suffix_is_the_format(asset, tmp_path):
    (tmp_path / "out").mkdir()
    export(asset, "--to=compressed.ply", "--to=ply", "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["signs.compressed.ply", "signs.ply"]
    packed = tmp_path / "out" / "signs.compressed.ply"
    assert flow.find_asset(packed, None, None).name == "signs"
    export(packed, "--to=ply", "--to=spz", "--out", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "signs.ply", "signs.spz"]
    for kind, suffix in (("ply", "compressed.ply"), ("compressed.ply", "ply")):
        assert refused(asset, f"--to={kind}", "--out", tmp_path / f"a.{suffix}").endswith(
            f"ends with '.{suffix}' and --to is {kind}; use the extension .{kind}."
        )


def test_invalid_gaussians_are_refused_or_dropped(asset, tmp_path):
    bad = signposts()
    bad.means[1] = torch.nan
    asset.write_bytes(ply.to_ply(bad))
    for kind in ("ply", "splat", "spz", "sog", "glb", "obj", "png"):
        message = refused(asset, f"--to={kind}")
        assert message.startswith(f"Error: {asset}: The .ply has 1 invalid of 3 Gaussians; the first is number 1, with")
        assert message.endswith("export FILE --to ply --drop-invalid.")
    export(asset, "--to=ply", "--drop-invalid", "--out", tmp_path / "good.ply")
    assert ply.from_ply((tmp_path / "good.ply").read_bytes()).num == 2


def test_clamped_values_are_reported(asset, tmp_path):
    large = signposts().with_sh_degree(1)
    large.log_scales[1] = 7
    large.sh[2, 1] = 1.5
    large.log_scales[0], large.log_scales[2] = 21, 21
    asset.write_bytes(ply.to_ply(large))
    for kind, clamped in (("spz", 3), ("compressed.ply", 2)):
        _, stderr = export(asset, f"--to={kind}", "--out", tmp_path / f"a.{kind}")
        assert stderr == (
            f"a.{kind}: sizes or colours of {clamped} Gaussians are outside the range of a .{kind} and clamped.\n"
        )


@pytest.mark.parametrize(("size", "pixels"), [(16, 256), (101, 302), (257, 256), (300, 300)])
def test_the_size_of_a_video_is_reported_if_it_is_not_the_requested_one(asset, tmp_path, monkeypatch, size, pixels):
    monkeypatch.setattr(flow, "TURNTABLE_VIEWS", 2)
    _, stderr = export(asset, "--to=mp4", f"--size={size}", "--out", tmp_path / "a.mp4")
    reported = f"a.mp4 is {pixels} pixels wide and high: an .mp4 has an even number of at least 256.\n"
    assert stderr == ("" if pixels == size else reported)
    probe = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", tmp_path / "a.mp4"], capture_output=True, text=True)
    assert f" {pixels}x{pixels}" in probe.stderr


def test_the_degree_of_the_harmonics_is_padded_or_reduced(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply.to_ply(some_splats(5, 1)))
    (tmp_path / "flat.ply").write_bytes(ply.to_ply(some_splats(5, 1).with_sh_degree(0).with_sh_degree(2)))
    for degree, message in ((3, ""), (1, ""), (0, "The spherical harmonics of degree 1 to 1 are left out.\n")):
        _, stderr = export(tmp_path / "a.ply", "--to=ply", f"--sh-degree={degree}", "--out", tmp_path / "b.ply")
        found, given = ply.from_ply((tmp_path / "b.ply").read_bytes()), some_splats(5, 1)
        assert stderr == message
        assert torch.equal(found.sh, given.with_sh_degree(degree).sh)
        assert found.sh_degree == degree
        assert torch.equal(found.quats, given.quats)
    assert export(tmp_path / "flat.ply", "--to=ply", "--sh-degree=0", "--out", tmp_path / "b.ply")[1] == ""


def test_both_versions_of_spz_hold_the_same_gaussians(tmp_path):
    (tmp_path / "a.ply").write_bytes(ply.to_ply(some_splats(50, 2)))
    files = [tmp_path / f"{version}.spz" for version in (3, 4)]
    for version, file in zip((3, 4), files, strict=True):
        export(tmp_path / "a.ply", "--to=spz", f"--spz-version={version}", "--out", file)
    assert files[0].read_bytes()[:2] == b"\x1f\x8b"  # gzip
    assert files[1].read_bytes()[:8] == b"NGSP\x04\0\0\0"
    three, four = (spz.from_spz(file.read_bytes()) for file in files)
    assert all(map(torch.equal, three.tensors().values(), four.tensors().values()))


def test_compressed_ply_is_an_input(tmp_path):
    (tmp_path / "a.compressed.ply").write_bytes(compressed(some_splats(5, 0)))
    export(tmp_path / "a.compressed.ply", "--to=ply", "--out", tmp_path / "b.ply")
    assert ply.from_ply((tmp_path / "b.ply").read_bytes()).num == 5
    vertices = np.zeros(2, [("packed_position", "u4"), ("packed_rotation", "u4")])
    PlyData([PlyElement.describe(vertices, "vertex")]).write(tmp_path / "small.ply")
    assert refused(tmp_path / "small.ply", "--to=spz") == (
        f"Error: {tmp_path / 'small.ply'} cannot be read. The compressed .ply is damaged (its vertices have no words "
        "packed_scale): export or copy it again."
    )


# ---- errors -------------------------------------------------------------------------------------------------------


def test_invalid_options_are_errors(asset, tmp_path):
    assert refused(asset, "--to=spzz") == (
        "Error: Unknown value 'spzz' for --to; choose from ply, compressed.ply, splat, spz, sog, glb, usda, usdz, "
        "obj, html, mp4, gif, png; the nearest is 'spz'."
    )
    assert "--up is 'x'; expected z, y or -y" in refused(asset, "--to=ply", "--up=x")
    assert "--mesh requires --to glb" in refused(asset, "--to=obj", "--mesh")
    assert "--size is 8; expected 16 to 2048 pixels." in refused(asset, "--to=gif", "--size=8")
    assert "--sh-degree is 4; expected 0 to 3." in refused(asset, "--to=ply", "--sh-degree=4")
    assert "--spz-version is 2; expected 3 or 4." in refused(asset, "--to=spz", "--spz-version=2")
    assert "--spz-version requires --to spz." in refused(asset, "--to=ply", "--spz-version=4")
    assert "--azimuth requires --to png" in refused(asset, "--to=gif", "--azimuth=8")
    assert refused(asset, "--to=usdz", "--up=-y") == (
        "Error: --up -y is not possible with --to usdz: OpenUSD has y or z up."
    )
    assert "is not a folder, but 2 formats were requested" in refused(
        asset, "--to=ply", "--to=spz", "--out", tmp_path / "x"
    )
    assert "ends with '.gltf' and --to is glb" in refused(asset, "--to=glb", "--out", tmp_path / "x.gltf")
    before = asset.read_bytes()
    assert refused(asset, "--to=ply", "--out", asset) == (f"Error: {asset} is the asset itself; choose another --out.")
    assert asset.read_bytes() == before


def test_files_that_are_not_assets_are_errors(tmp_path):
    (tmp_path / "none.ply").write_bytes(ply.to_ply(some_splats(0)))
    assert refused(tmp_path / "none.ply", "--to=spz").endswith("contains no Gaussians; pass a finished asset.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    for name in "picture.png", "scene.ksplat", "none":
        (tmp_path / name).write_bytes(b"\x89PNG")
        assert refused(tmp_path / name, "--to=spz") == (
            f"Error: {tmp_path / name} is not in a format of Gaussians that is read here (.ply, .splat, .spz, .sog, "
            ".glb, .usda, .usdc, .usdz); convert it first."
        )
    (tmp_path / "wrong.ply").write_bytes(b"\x89PNG")
    assert "wrong.ply cannot be read. This is not a .ply: it starts with" in refused(tmp_path / "wrong.ply", "--to=spz")


def test_a_ply_may_have_any_name_and_suffixes_any_case(tmp_path):
    for name in "asset.3dgs", "asset.PLY", "asset":
        (tmp_path / name).write_bytes(ply.to_ply(some_splats(2)))
        export(tmp_path / name, "--to=spz", "--out", tmp_path / "out.spz")
    (tmp_path / "copy.SPZ").write_bytes((tmp_path / "out.spz").read_bytes())
    export(tmp_path / "copy.SPZ", "--to=ply", "--out", tmp_path / "back.ply")
    assert ply.from_ply((tmp_path / "back.ply").read_bytes()).num == 2


def test_what_a_format_cannot_hold_is_an_error(tmp_path):
    far = some_splats(2)
    far.means[0, 0] = 5000
    (tmp_path / "far.ply").write_bytes(ply.to_ply(far))
    line = refused(tmp_path / "far.ply", "--to=spz", "--out", tmp_path)
    assert "far.ply cannot be written as .spz. A Gaussian has a coordinate of 5000 units; a .spz stores" in line
    faint = Gaussians(**{**some_splats(2).tensors(), "logit_opacities": torch.full((2,), -9.0)})
    (tmp_path / "faint.ply").write_bytes(ply.to_ply(faint))
    assert "No surface found" in refused(tmp_path / "faint.ply", "--to=obj", "--out", tmp_path)
    assert not (tmp_path / "faint.obj").exists()


def test_openusd_without_usd_core_names_the_extra(asset, tmp_path, monkeypatch):
    (tmp_path / "a.usdz").write_bytes(b"#usda 1.0")
    monkeypatch.setattr(flow.importlib.util, "find_spec", lambda name: None)
    assert refused(asset, "--to=usda") == (
        "Error: --to usda needs usd-core, which is not installed; pip install 'segmentdreamer[usd]'."
    )
    assert refused(tmp_path / "a.usdz", "--to=ply") == (
        f"Error: {tmp_path / 'a.usdz'} cannot be read. OpenUSD files need usd-core, which is not installed: pip "
        "install 'segmentdreamer[usd]'."
    )


def test_openusd_is_written_with_the_axis_that_is_asked_for(asset, tmp_path):
    pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'segmentdreamer[usd]'")
    for up, places in (("y", "(0, 0, 0.5), (0.5, 0, 0), (0, 0.5, 0)"), ("z", "(0.5, 0, 0), (0, 0.5, 0), (0, 0, 0.5)")):
        export(asset, "--to=usda", f"--up={up}", "--out", tmp_path / "a.usda")
        text = (tmp_path / "a.usda").read_text()
        assert f'upAxis = "{up.upper()}"' in text
        assert places in text.replace("-0,", "0,")
        export(tmp_path / "a.usda", "--to=ply", "--out", tmp_path / "b.ply")
        assert torch.allclose(ply.from_ply((tmp_path / "b.ply").read_bytes()).means, signposts().means, atol=1e-6)


def test_help_names_every_format():
    assert f"Format: {', '.join(flow.FORMATS)}. Repeatable." in " ".join(export("--help")[0].split())
