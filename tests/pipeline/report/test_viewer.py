"""The viewer's archive is checked against its SHA-256; assets are embedded unchanged."""

import base64
import gzip
import hashlib
import io
import re
import subprocess
import tarfile

import html5lib
import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app as cli
from pipeline.cli import error_handling
from pipeline.commands import report as commands_report
from pipeline.errors import UserError
from pipeline.report import viewer
from sctd.formats import ply
from tests.support import finished_run


def packed(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return file.getvalue()


MEMBERS = {"public/index.js": b'export const a = "</script>";', "public/index.css": b"a {}", "LICENSE": b"MIT, of X"}


@pytest.fixture
def archive(monkeypatch, tmp_path) -> bytes:
    """An archive with the pinned SHA-256, and an empty cache."""
    content = packed(MEMBERS)
    monkeypatch.setattr(viewer, "SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(viewer, "archive", lambda: tmp_path / "cache" / viewer.ARCHIVE)
    return content


def test_files_include_the_licence(archive):
    files = viewer.opened(archive)
    assert files["supersplat.js"] == b'window.SPLAT_VIEWER = "export const a = \\"</script>\\";";\n'
    assert files["supersplat.css"] == b"a {}"
    assert files["LICENSE.txt"].endswith(b"MIT, of X")
    assert viewer.PACKAGE.encode() in files["LICENSE.txt"]


def test_other_archive_is_refused(archive):
    with pytest.raises(UserError, match=r"^This is not @playcanvas/supersplat-viewer .* SHA-256 is .*, expected "):
        viewer.opened(packed(MEMBERS | {"LICENSE": b"other"}))


def test_viewer_is_fetched_once(archive, monkeypatch):
    commands = []

    def npm(command, *, cwd, **options):
        commands.append(command[1:3])
        (viewer.Path(cwd) / viewer.ARCHIVE).write_bytes(archive)

    monkeypatch.setattr(viewer.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(viewer.subprocess, "run", npm)
    assert viewer.cached() is None
    assert viewer.fetch() == viewer.fetch() == viewer.cached() == viewer.opened(archive)
    assert commands == [["pack", f"{viewer.PACKAGE}@{viewer.VERSION}"]]
    viewer.archive().write_bytes(archive[:-1])
    assert viewer.cached() is None


def test_archive_can_be_given_as_a_file(archive, tmp_path):
    file = tmp_path / "brought.tgz"
    file.write_bytes(archive)
    found = CliRunner().invoke(cli.app, ["viewer", "fetch", "--from", str(file)])
    assert found.exit_code == 0
    assert viewer.cached() == viewer.opened(archive)


def test_missing_npm_is_an_error(archive, monkeypatch):
    monkeypatch.setattr(viewer.shutil, "which", lambda name: None)
    found = CliRunner().invoke(cli.app, ["viewer", "fetch"])
    assert found.exit_code == error_handling.INVALID_INPUT
    assert found.stderr.startswith(
        "Error: The viewer is an npm package, and npm is not on the PATH; install it with pip install "
    )


def test_npm_failure_is_an_error(archive, monkeypatch):
    def refuse(command, **options):
        raise subprocess.CalledProcessError(1, command, stderr="npm error code E404\nnpm error more\n")

    monkeypatch.setattr(viewer.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(viewer.subprocess, "run", refuse)
    with pytest.raises(UserError, match=r"npm could not fetch .* \(npm error code E404\); check that npm reaches its"):
        viewer.fetch()


def test_asset_is_embedded_unchanged():
    data = ply.to_ply(finished_run.asset())
    script = viewer.embedded(data)
    assert base64.b64decode(script.removeprefix(b'window.ASSET = "').removesuffix(b'";\n')) == data


def test_a_page_of_one_file_has_the_viewer_the_asset_and_the_licence(archive):
    viewer.archive().parent.mkdir()
    viewer.archive().write_bytes(archive)
    title, asset = "a </script><b>red</b> ball", ply.to_compressed_ply(finished_run.asset())
    page = viewer.standalone()(asset, title)
    assert page == viewer.standalone()(asset, title)
    parsed = html5lib.parse(page.decode(), namespaceHTMLElements=False)
    scripts = {script.get("id"): script.text for script in parsed.iter("script")}
    assert list(scripts) == ["supersplat", "asset", None]
    assert gzip.decompress(base64.b64decode(scripts["supersplat"])) == MEMBERS["public/index.js"]
    assert gzip.decompress(base64.b64decode(scripts["asset"])) == asset
    assert parsed.find(".//pre[@id='license']").text.endswith("MIT, of X")
    assert parsed.find(".//title").text == parsed.find(".//h1").text == title
    assert [element.tag for element in parsed.iter() if {"src", "href"} & {*element.keys()}] == []
    policy = parsed.find(".//meta[@http-equiv='Content-Security-Policy']").get("content")
    digest = base64.b64encode(hashlib.sha256(scripts[None].encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search(r"https?:|file:|'self'|script-src[^;]*'unsafe-inline'", policy)


def test_file_without_gaussians_is_refused(tmp_path):
    viewer.check(ply.to_ply(finished_run.asset()), "asset.ply")
    viewer.check(ply.to_ply(finished_run.with_spherical_harmonics(finished_run.asset())), "asset.ply")
    for content in (b"", b"ply\nproperty float x\nend_header\n", b"no ply f_dc_0\n opacity\n"):
        with pytest.raises(
            UserError, match=r"^asset\.ply contains no Gaussians \(f_dc_0 is missing\); pass an asset\.ply"
        ):
            viewer.check(content, "asset.ply")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["{folder}/none.ply"],
            "none.ply cannot be read (No such file or directory); pass an asset.ply, or the folder",
        ),
        (["{folder}"], "asset.ply cannot be read (No such file or directory); pass an asset.ply, or the folder"),
        (["{folder}/text.ply"], "text.ply contains no Gaussians (f_dc_0 is missing)"),
        (["{folder}/text.spz"], "text.spz cannot be read. This is not a .spz"),
    ],
)
def test_view_of_an_invalid_asset_is_an_error(tmp_path, arguments, message):
    for name in ("text.ply", "text.spz"):
        (tmp_path / name).write_text("no ply")
    found = CliRunner().invoke(cli.app, ["view", *(a.format(folder=tmp_path) for a in arguments)])
    assert found.exit_code == error_handling.INVALID_INPUT
    assert message in found.stderr


@pytest.mark.parametrize("kind", ["compressed.ply", "spz", "sog", "glb"])
def test_view_of_other_formats_shows_a_ply_in_our_axes(tmp_path, monkeypatch, kind):
    (tmp_path / "a.ply").write_bytes(ply.to_ply(finished_run.asset()))
    done = CliRunner().invoke(cli.app, ["export", str(tmp_path / "a.ply"), "--to", kind, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    shown = []
    monkeypatch.setattr(viewer, "fetch", dict)
    monkeypatch.setattr(viewer, "embedded", lambda data: shown.append(data) or b"")
    monkeypatch.setattr(commands_report, "_server", lambda folder, port: (_ for _ in ()).throw(UserError("stop")))
    found = CliRunner().invoke(cli.app, ["view", str(tmp_path / f"a.{kind}")])
    assert "stop" in found.stderr, found.output
    (data,) = shown
    viewer.check(data, "a.ply")
    means, expected = ply.from_ply(data).means, finished_run.asset().means
    torch.testing.assert_close(means.sort(dim=0).values, expected.sort(dim=0).values, rtol=0, atol=2e-3)


def test_taken_port_is_an_error(tmp_path):
    with commands_report._server(str(tmp_path), 0) as server:
        taken = server.server_address[1]
        assert server.server_address[0] == "127.0.0.1"
        with pytest.raises(
            UserError, match=rf"^Port {taken} is not available \(.*\); pass another port with --port, or 0 for a"
        ):
            commands_report._server(str(tmp_path), taken)
    with pytest.raises(UserError, match=r"^Port 70000 is not available"):
        commands_report._server(str(tmp_path), 70000)
