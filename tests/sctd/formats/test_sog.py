"""sctd.formats.sog: version 2 of PlayCanvas' format, read equally by our reader and by GaussForge."""

import io
import json
import zipfile

import gaussforge
import pytest
import torch
from PIL import Image

from sctd.formats.common import FormatError
from sctd.formats.ply import to_ply
from sctd.formats.sog import from_sog, to_sog
from sctd.scene.gaussians import Gaussians
from tests.support.splats import degrees_between, read_with_gaussforge, some_splats

# As in test_spz.py, with steps of √2/255.
DEGREES = 2 * 57.3 * (3**0.5 + 3) * 0.5 * 2**0.5 / 255


@pytest.mark.parametrize("read", [from_sog, lambda data: read_with_gaussforge(data, "sog")], ids=["ours", "gaussforge"])
def test_round_trip_is_accurate_to_a_step_without_higher_sh(read):
    gaussians = some_splats(400, degree=1)
    back = read(to_sog(gaussians))
    assert back.sh_degree == 0
    # 2^16 steps on a logarithmic scale, at most twice as coarse at the ends as at the origin for positions in [-1, 1].
    assert float((back.means - gaussians.means).abs().max()) < 2 * 1.39 / 65535
    assert float((back.opacities - gaussians.opacities).abs().max()) < 0.5 / 255 + 1e-6
    # Codebooks of 256 for 1200 uniform numbers: entries are 1/256 of the range apart, by chance up to four times that.
    assert float((back.log_scales - gaussians.log_scales).abs().max()) < 4 * 5 / 256
    assert float((back.sh - gaussians.sh[:, :1]).abs().max()) < 4 * 3.4 / 256
    assert float(degrees_between(back, gaussians).max()) < DEGREES


def with_harmonics(degree: int) -> bytes:
    """A .sog of 300 Gaussians by GaussForge, which writes a palette of harmonics."""
    found = gaussforge.GaussForge().convert(to_ply(some_splats(300, degree)), "ply", "sog")
    assert "error" not in found, found
    return found["data"]


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_harmonics_of_other_writers_are_read(degree):
    data = with_harmonics(degree)
    back, expected = from_sog(data), read_with_gaussforge(data, "sog")
    assert back.sh.shape == (300, (degree + 1) ** 2, 3)
    torch.testing.assert_close(back.sh, expected.sh, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.means, expected.means, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"bands": 4}, r"meta\.json of the \.sog is invalid \(shN\.bands: "),
        ({"count": 70_000}, r"meta\.json of the \.sog is invalid \(shN\.count: "),
        ({"codebook": [0.0] * 255}, r"meta\.json of the \.sog is invalid \(shN\.codebook: "),
        ({"bands": 2}, r"pixels for \d+ harmonics in rows of 512\); export"),
        ({"count": 1}, r"^The \.sog has entry \d+ of 1 harmonics; export or copy it again\."),
        ({"files": ["none.webp", "none.webp"]}, r"The image 'none\.webp' of the \.sog cannot be read"),
    ],
)
def test_wrong_harmonics_are_named(change, sentence):
    archive = zipfile.ZipFile(io.BytesIO(with_harmonics(1)))
    contents = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(contents["meta.json"])
    meta["shN"] |= change
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in (contents | {"meta.json": json.dumps(meta).encode()}).items():
            written.writestr(name, content)
    with pytest.raises(FormatError, match=sentence):
        from_sog(file.getvalue())


def test_the_bundle_contains_the_published_files():
    data = to_sog(some_splats(10))
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = ["meta.json", "means_l.webp", "means_u.webp", "scales.webp", "quats.webp", "sh0.webp"]
    assert archive.namelist() == names
    meta = json.loads(archive.read("meta.json"))
    assert (meta["version"], meta["count"]) == (2, 10)
    assert len(meta["scales"]["codebook"]) == len(meta["sh0"]["codebook"]) == 256
    for name in names[1:]:
        assert Image.open(io.BytesIO(archive.read(name))).size == (4, 3), name
    assert data == to_sog(some_splats(10))


def test_one_gaussian_and_equal_gaussians_can_be_stored():
    one = some_splats(1)
    for gaussians in (
        one,
        Gaussians(**{name: tensor.expand(5, *tensor.shape[1:]) for name, tensor in one.tensors().items()}),
    ):
        torch.testing.assert_close(from_sog(to_sog(gaussians)).means, gaussians.means, atol=1e-5, rtol=0)


def test_empty_input_and_other_files_are_refused():
    with pytest.raises(FormatError, match=r"^There are no Gaussians; a \.sog needs at least one\."):
        to_sog(some_splats(0))
    with pytest.raises(FormatError, match=r"^This is not a \.sog \(.*\); expected a zip with meta\.json\."):
        from_sog(b"ply")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("meta.json", json.dumps({"means": {}}))
    with pytest.raises(FormatError, match=r"^The \.sog has version None; expected 2\. Export it again\."):
        from_sog(file.getvalue())


def changed(**files: bytes | dict) -> bytes:
    """A bundle of three Gaussians with other files, or other values in meta.json."""
    archive = zipfile.ZipFile(io.BytesIO(to_sog(some_splats(3))))
    contents = {name: archive.read(name) for name in archive.namelist()}
    meta = json.loads(contents["meta.json"]) | files.pop("meta", {})
    contents |= {"meta.json": json.dumps(meta).encode()} | {f"{name}.webp": image for name, image in files.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, content in contents.items():
            written.writestr(name, content)
    return file.getvalue()


def webp(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (width, height)).save(file, "WEBP", lossless=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"meta": {"means": None}}, r"meta\.json of the \.sog is invalid \(means: Input should be"),
        ({"meta": {"count": -1}}, r"is invalid \(count: Input should be greater than 0"),
        ({"meta": {"count": 2**31}}, r"The \.sog is truncated: meta\.json announces 2147483648 Gaussians"),
        (
            {"meta": {"scales": {"codebook": [0.0], "files": ["scales.webp"]}}},
            r"is invalid \(scales\.codebook: List should",
        ),
        ({"meta": {"quats": {"files": ["none.webp"]}}}, r"The image 'none\.webp' of the \.sog cannot be read"),
        ({"scales": b"GIF89a"}, r"The image 'scales\.webp' of the \.sog cannot be read \(it is no \.webp image\)"),
        ({"scales": webp(1, 2)}, r"\(it has 1 × 2 pixels for 3 Gaussians\)"),
        ({"scales": webp(1000, 1000)}, r"\(it has 1000 × 1000 pixels for 3 Gaussians\)"),
        ({"quats": webp(2, 2)}, r"The \.sog has quaternions of an unknown form"),
    ],
)
def test_wrong_contents_are_named(changes, sentence):
    with pytest.raises(FormatError, match=sentence):
        from_sog(changed(**changes))
