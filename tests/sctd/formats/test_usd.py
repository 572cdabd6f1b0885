"""sctd.formats.usd: files that usd-core opens and validates, and files of others that are read or refused."""

import io
import json
import re
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch

pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'segmentdreamer[usd]'")
from pxr import Gf, Sdf, Usd, UsdGeom, UsdValidation, UsdVol, Vt

from sctd.formats import usd, usd_reader
from sctd.formats.axes import axes, rotated
from sctd.formats.common import FormatError, InvalidGaussiansError
from sctd.formats.usd import from_usd, to_usda, to_usdz
from sctd.scene.gaussians import Gaussians, rotations
from tests.support.splats import degrees_between, read_usd_in_this_process, some_splats

WRITERS = {"usda": to_usda, "usdz": to_usdz}


@pytest.fixture
def in_this_process(monkeypatch):
    read_usd_in_this_process(monkeypatch)


def stage_of(data: bytes, folder, kind: str = "usda") -> Usd.Stage:
    path = folder / f"splats.{kind}"
    path.write_bytes(data)
    return Usd.Stage.Open(str(path))


def extent_of(gaussians: Gaussians, folder) -> np.ndarray:
    stage = stage_of(to_usda(gaussians), folder)
    return np.asarray(prim_of(stage).GetExtentAttr().Get())


def prim_of(stage: Usd.Stage) -> UsdVol.ParticleField3DGaussianSplat:
    return UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim())


def edited(change, splats: Gaussians | None = None) -> bytes:
    """The text of a file after `change(splats, stage)`."""
    layer = usd._layer(some_splats(5, 1) if splats is None else splats, "y", "usda")
    stage = Usd.Stage.Open(layer)
    change(prim_of(stage), stage)
    return layer.ExportToString().encode()


# ---- written files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("degree", range(4))
def test_usd_core_finds_the_values_of_the_schema(tmp_path, kind, degree):
    gaussians = some_splats(7, degree)
    stage = stage_of(WRITERS[kind](gaussians), tmp_path, kind)
    splats = prim_of(stage)
    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    assert splats.GetPrim().GetTypeName() == "ParticleField3DGaussianSplat"
    definition = Usd.SchemaRegistry().FindConcretePrimDefinition("ParticleField3DGaussianSplat")
    for attribute in splats.GetPrim().GetAuthoredAttributes():
        expected = definition.GetAttributeDefinition(attribute.GetName())
        assert attribute.GetTypeName() == expected.GetTypeName(), attribute
        assert attribute.GetVariability() == expected.GetVariability(), attribute
    for attribute, values in (
        (splats.GetPositionsAttr(), gaussians.means),
        (splats.GetScalesAttr(), gaussians.scales),
        (splats.GetOpacitiesAttr(), gaussians.opacities),
        (splats.GetRadianceSphericalHarmonicsCoefficientsAttr(), gaussians.sh.flatten(0, 1)),
    ):
        np.testing.assert_array_equal(np.asarray(attribute.Get()), values.numpy())
    assert splats.GetRadianceSphericalHarmonicsDegreeAttr().Get() == degree
    assert splats.GetRadianceSphericalHarmonicsDegreeAttr().HasAuthoredValue()  # 3 is the default of the schema
    assert splats.GetRadianceSphericalHarmonicsCoefficientsAttr().GetMetadata("elementSize") == (degree + 1) ** 2
    matrices = [np.array(Gf.Matrix3d(Gf.Rotation(Gf.Quatd(quat)))).T for quat in splats.GetOrientationsAttr().Get()]
    np.testing.assert_allclose(matrices, rotations(gaussians.quats).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", WRITERS)
def test_all_validators_of_usd_core_pass(tmp_path, kind):
    stage = stage_of(WRITERS[kind](some_splats(7, 2)), tmp_path, kind)
    registry = UsdValidation.ValidationRegistry()
    validators = registry.GetOrLoadAllValidators()
    assert len(validators) > 20
    errors = UsdValidation.ValidationContext(validators).Validate(stage)
    assert [str(error.GetErrorAsString()) for error in errors] == []


def test_the_extent_is_that_of_three_standard_deviations(tmp_path):
    gaussians = some_splats(20)
    low, high = extent_of(gaussians, tmp_path)
    directions = torch.nn.functional.normalize(torch.randn(20000, 3, generator=torch.manual_seed(0)), dim=-1)
    on_ellipsoids = 3 * torch.einsum("nij,nj,dj->ndi", rotations(gaussians.quats), gaussians.scales, directions)
    points = (gaussians.means[:, None] + on_ellipsoids).flatten(0, 1)
    for found, bound in ((points.amin(0).numpy(), low), (points.amax(0).numpy(), high)):
        np.testing.assert_allclose(found, bound, atol=2e-3)
    assert (points.numpy() >= low).all()
    assert (points.numpy() <= high).all()
    one = Gaussians(**{**some_splats(1).tensors(), "means": torch.full((1, 3), 0.1)})
    low, high = extent_of(one, tmp_path).astype(float)
    spread = 3 * (rotations(one.quats.double()).square() @ one.scales.double().square()[0]).sqrt()[0].numpy()
    assert (high > np.float32(0.1) + spread).all()  # never less, by rounding
    assert (high - low < 2 * spread * (1 + 1e-6) + 1e-6).all()


def test_a_package_is_a_zip_of_one_stored_layer_at_a_multiple_of_64_bytes():
    data = to_usdz(some_splats(9, 1))
    (entry,) = zipfile.ZipFile(io.BytesIO(data)).infolist()
    assert (entry.filename, entry.compress_type) == ("splats.usdc", zipfile.ZIP_STORED)
    lengths = struct.unpack_from("<HH", data, entry.header_offset + 26)
    start = entry.header_offset + 30 + sum(lengths)
    assert start % 64 == 0
    assert data[start : start + 8] == b"PXR-USDC"


def test_equal_gaussians_give_equal_bytes_at_any_time_and_in_any_time_zone(monkeypatch):
    first = [write(some_splats(5, 1)) for write in WRITERS.values()]
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 10_000)
    try:
        assert [write(some_splats(5, 1)) for write in WRITERS.values()] == first
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("up", ["y", "z"])
def test_a_file_says_which_axis_is_up(tmp_path, up):
    gaussians = some_splats(5, 2)
    data = to_usda(rotated(gaussians, axes(up)), up)
    stage = stage_of(data, tmp_path)
    assert UsdGeom.GetStageUpAxis(stage) == up.upper()
    back = rotated(from_usd(data), axes("y").T)
    torch.testing.assert_close(back.means, gaussians.means, rtol=0, atol=1e-6)
    torch.testing.assert_close(back.sh, gaussians.sh, rtol=0, atol=1e-5)


# ---- reading --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("degree", range(4))
def test_round_trip_keeps_everything_except_quaternion_lengths(in_this_process, kind, degree):
    gaussians = some_splats(degree=degree)
    back = from_usd(WRITERS[kind](gaussians))
    assert torch.equal(back.means, gaussians.means)
    assert torch.equal(back.sh, gaussians.sh)
    torch.testing.assert_close(back.log_scales, gaussians.log_scales, atol=1e-6, rtol=0)
    torch.testing.assert_close(back.logit_opacities, gaussians.logit_opacities, atol=1e-5, rtol=0)
    assert float(degrees_between(back, gaussians).max()) < 1e-3


def test_binary_layers_and_half_precision_are_read(tmp_path):
    gaussians = some_splats(5, 1)

    def to_halves(splats, _):
        for name in usd_reader.ARRAYS:
            attribute = splats.GetPrim().GetAttribute(name)
            values = np.asarray(attribute.Get()).astype(np.float16)
            kind = {"orientations": Vt.QuathArray, "opacities": Vt.HalfArray}.get(name, Vt.Vec3hArray)
            splats.GetPrim().GetAttribute(f"{name}h").Set(kind.FromNumpy(values))
            splats.GetPrim().RemoveProperty(name)

    text = edited(to_halves, gaussians)
    assert b"positionsh" in text
    stage = stage_of(text, tmp_path)
    stage.GetRootLayer().Export(str(tmp_path / "splats.usdc"))
    for data in (text, (tmp_path / "splats.usdc").read_bytes()):
        back = from_usd(data)
        torch.testing.assert_close(back.means, gaussians.means, rtol=0, atol=1e-3)
        torch.testing.assert_close(back.sh, gaussians.sh, rtol=0, atol=1e-3)
        assert float(degrees_between(back, gaussians).max()) < 0.1


def test_missing_attributes_have_the_schemas_defaults(in_this_process):
    def clear(splats, _):
        for name in usd_reader.ARRAYS[1:]:
            splats.GetPrim().RemoveProperty(name)

    back = from_usd(edited(clear))
    assert torch.equal(back.means, some_splats(5, 1).means)
    assert back.scales.tolist() == [[1, 1, 1]] * 5
    assert back.quats.tolist() == [[1, 0, 0, 0]] * 5
    assert back.sh.tolist() == [[[0, 0, 0]]] * 5  # grey
    assert float(back.opacities.min()) > 0.999999


def test_all_splats_of_a_stage_are_read_in_their_places(in_this_process):
    gaussians = some_splats(3, 2)

    def add(_, stage):
        parent = UsdGeom.Xform.Define(stage, "/Parent")
        parent.AddTranslateOp().Set((1, 2, 3))
        UsdGeom.Sphere.Define(stage, "/Parent/Ball")
        other = UsdVol.ParticleField3DGaussianSplat.Define(stage, "/Parent/Other")
        other.AddRotateYOp().Set(90.0)
        other.AddScaleOp().Set((2, 2, 2))
        Sdf.CopySpec(stage.GetRootLayer(), "/Splats.positions", stage.GetRootLayer(), "/Parent/Other.positions")
        Sdf.CopySpec(stage.GetRootLayer(), "/Splats.scales", stage.GetRootLayer(), "/Parent/Other.scales")

    back = from_usd(edited(add, gaussians))
    assert (back.num, back.sh_degree) == (6, 2)
    x, y, z = gaussians.means.T
    torch.testing.assert_close(back.means[3:], torch.stack([1 + 2 * z, 2 + 2 * y, 3 - 2 * x], 1), rtol=0, atol=1e-5)
    torch.testing.assert_close(back.scales[3:], 2 * gaussians.scales, rtol=1e-5, atol=0)
    assert back.sh[3:].abs().max() == 0


def test_default_values_win_and_animation_is_not_read(in_this_process):
    def animate(splats, _):
        attribute = splats.GetPositionsAttr()
        values = attribute.Get()
        attribute.Clear()
        attribute.Set(values, 1.0)

    with pytest.raises(FormatError, match=r"^The OpenUSD file has splats without positions at the default time"):
        from_usd(edited(animate))


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_input_that_cannot_be_written_is_refused():
    for kind, write in WRITERS.items():
        with pytest.raises(FormatError, match=rf"^There are no Gaussians; a \.{kind} needs at least one\."):
            write(some_splats(0))
        with pytest.raises(FormatError, match=r"^OpenUSD has no axis '-y' that points up; expected y or z\."):
            write(some_splats(1), "-y")
        with pytest.raises(InvalidGaussiansError, match=rf"^The \.{kind} has 2 invalid of 2 Gaussians"):
            write(Gaussians(**{**some_splats(2).tensors(), "logit_opacities": torch.full((2,), torch.nan)}))


def shorten(name, num):
    def change(splats, _):
        attribute = splats.GetPrim().GetAttribute(name)
        values = attribute.Get()
        attribute.Set(type(values)(list(values)[:num]))

    return change


HARMONICS = usd_reader.ARRAYS[-1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (shorten("scales", 3), "has 3 values of scales for 5 Gaussians of SH degree 1; expected 5. Export it again."),
        (shorten("orientations", 1), "has 1 values of orientations for 5 Gaussians"),
        (shorten("opacities", 0), "has 0 values of opacities for 5 Gaussians"),
        (shorten("positions", 4), "has 5 values of orientations for 4 Gaussians"),
        (shorten("positions", 0), "has splats without positions at the default time; export them again."),
        (shorten(HARMONICS, 19), f"has 19 values of {HARMONICS} for 5 Gaussians of SH degree 1; expected 20."),
        (
            lambda splats, _: splats.GetRadianceSphericalHarmonicsDegreeAttr().Clear(),
            "for 5 Gaussians of SH degree 3; expected 80.",
        ),
        (lambda splats, _: splats.GetRadianceSphericalHarmonicsDegreeAttr().Set(4), "of degree 4; expected 0 to 3."),
        (lambda splats, _: splats.GetRadianceSphericalHarmonicsDegreeAttr().Set(-1), "of degree -1; expected 0 to 3."),
        (lambda splats, _: splats.GetOpacitiesAttr().Set([0.5] * 4 + [3.0]), "1 invalid of 5 Gaussians; the first is"),
        (lambda splats, _: splats.GetScalesAttr().Set([(-1, 1, 1)] * 5), "5 invalid of 5 Gaussians; the first is"),
        (lambda splats, _: splats.AddScaleOp().Set((1, 1, 2)), "a node that mirrors or stretches its Gaussians"),
        (lambda splats, _: splats.AddScaleOp().Set((1, 1, -1)), "a node that mirrors or stretches its Gaussians"),
        (lambda splats, _: splats.AddScaleOp().Set((0, 0, 0)), "a node that mirrors or stretches its Gaussians"),
        (
            lambda splats, stage: stage.RemovePrim("/Splats"),
            "has no ParticleField3DGaussianSplat; export the splats again.",
        ),
        (
            lambda splats, _: splats.GetPrim().GetReferences().AddReference("/etc/other.usda"),
            "cannot be read: it needs another file, '/etc/other.usda'; flatten it into one file first.",
        ),
        (
            lambda splats, stage: stage.GetRootLayer().subLayerPaths.append("https://example.org/a.usda"),
            "it needs another file, 'https://example.org/a.usda'; flatten it into one file first.",
        ),
        (lambda splats, _: splats.GetPrim().GetPayloads().AddPayload("a.usdc"), "it needs another file, 'a.usdc'"),
    ],
)
def test_wrong_contents_are_named(in_this_process, change, sentence):
    with pytest.raises(FormatError, match=re.escape(sentence)):
        from_usd(edited(change))


def test_invalid_gaussians_can_be_dropped(in_this_process):
    data = edited(lambda splats, _: splats.GetOpacitiesAttr().Set([0.5] * 4 + [3.0]))
    assert from_usd(data, drop_invalid=True).num == 4


def test_a_file_named_in_another_is_not_opened(tmp_path):
    text = edited(lambda splats, _: splats.GetPrim().GetReferences().AddReference(str(tmp_path / "secret.usda")))
    (tmp_path / "secret.usda").write_bytes(to_usda(some_splats(2)))
    with pytest.raises(FormatError, match="it needs another file"):
        from_usd(text)


def test_without_usd_core_a_sentence_says_what_to_install(monkeypatch):
    data = to_usda(some_splats(1))
    monkeypatch.setattr(usd.importlib.util, "find_spec", lambda name: None)
    for call in (lambda: to_usda(some_splats(1)), lambda: to_usdz(some_splats(1)), lambda: from_usd(data)):
        with pytest.raises(FormatError) as caught:
            call()
        assert str(caught.value) == (
            "OpenUSD files need usd-core, which is not installed: pip install 'segmentdreamer[usd]'."
        )


def test_the_reader_loads_neither_torch_nor_this_package(tmp_path):
    (tmp_path / "a.usda").write_bytes(to_usda(some_splats(2)))
    program = (
        f"import sys; sys.path.insert(0, {str(usd.Path(usd_reader.__file__).parent)!r}); import usd_reader, json; "
        f"usd_reader.main({str(tmp_path / 'a.usda')!r}, {str(tmp_path / 'a.npz')!r}, str(2**32)); "
        "print(json.dumps([name for name in ('torch', 'sctd') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
