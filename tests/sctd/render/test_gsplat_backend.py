"""sctd.render.gsplat_backend: layouts of arguments and results (anywhere); parity with the CPU backend (on a GPU).

On a machine with a GPU: `pip install 'segmentdreamer[gpu]'`, then `pytest tests/sctd/render/test_gsplat_backend.py`.
The first run compiles gsplat's kernels. Observed on an H200: images within 1.8e-6 except for one pixel (1.5e-4: an
alpha within rounding of 1/255), gradients within 1.5e-4 relative, because gsplat compiles with fast math
(dependencies.md).
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sctd.render import cpu_autograd
from sctd.render.contract import RenderError
from sctd.render.rasterize import render
from sctd.scene.cameras import Cameras, orbit
from sctd.scene.gaussians import Gaussians
from tests.support.render_reference import Splats, leaves_of, random_loss, random_scene

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU and gsplat")


def fake_rasterization(
    means, quats, scales, opacities, colors, viewmats, Ks, width, height, *,
    packed, backgrounds, render_mode, rasterize_mode,
):  # fmt: skip
    """The part of gsplat 1.5.3's `rasterization` that we use, in its layout, computed with our kernels."""
    assert (packed, render_mode) == (False, "RGB+D")
    angles = torch.zeros(len(viewmats))
    rasterized = cpu_autograd.rasterize(
        Splats(means, quats, scales, opacities, colors), Cameras(viewmats, Ks, width, height, angles, angles),
        backgrounds, antialiased=rasterize_mode == "antialiased",
    )  # fmt: skip
    image = torch.cat([rasterized.image, rasterized.depth[:, None]], dim=1).permute(0, 2, 3, 1)
    radii = torch.stack([rasterized.radii, (rasterized.radii - 1).clamp_min(0)], dim=-1)
    return image, rasterized.alpha[..., None], {"means2d": rasterized.means2d, "radii": radii}


@pytest.fixture
def gsplat_backend(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=fake_rasterization, __path__=[]))
    for name in ("gsplat.cuda", "gsplat.cuda._backend"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    monkeypatch.delitem(sys.modules, "sctd.render.gsplat_backend", raising=False)
    yield importlib.import_module("sctd.render.gsplat_backend")
    sys.modules.pop("sctd.render.gsplat_backend", None)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("channels", [3, 5])
def test_layouts_are_converted(gsplat_backend, channels, antialiased):
    splats, cameras, backgrounds = random_scene(0, num=50, channels=channels)
    leaves = leaves_of(splats)
    ours = cpu_autograd.rasterize(leaves, cameras, backgrounds, antialiased=antialiased)
    theirs = gsplat_backend.rasterize(leaves, cameras, backgrounds, antialiased=antialiased)
    for name in ("image", "alpha", "depth", "means2d"):
        assert torch.equal(getattr(theirs, name), getattr(ours, name)), name
    # gsplat returns two half axes; a Gaussian is visible if both are positive.
    assert torch.equal(theirs.radii, torch.where(ours.radii > 1, ours.radii, 0))
    random_loss(*theirs[:3]).backward()
    assert theirs.means2d.grad.shape == (3, 50, 2)


def test_a_missing_gsplat_is_reported_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    monkeypatch.delitem(sys.modules, "sctd.render.gsplat_backend", raising=False)
    with pytest.raises(RenderError, match=r"needs gsplat, which is not installed: pip install 'segmentdreamer\[gpu\]'"):
        importlib.import_module("sctd.render.gsplat_backend")


@pytest.mark.parametrize("writable", [True, False])
def test_one_process_compiles_the_kernels_while_others_wait(tmp_path, writable):
    package, log, builds = tmp_path / "gsplat", tmp_path / "log", tmp_path / "builds"
    (package / "cuda").mkdir(parents=True)
    (package / "__init__.py").write_text("rasterization = None")
    note = f"open({str(log)!r}, 'a').write"
    (package / "cuda/_backend.py").write_text(f"import time; {note}('start '); time.sleep(0.5); {note}('end ')")
    if not writable:
        builds.write_text("a file, where a folder cannot be")
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(builds)}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])])
    command = [sys.executable, "-c", "import sctd.render.gsplat_backend"]
    processes = [subprocess.Popen(command, env=environment) for _ in range(3 if writable else 1)]
    assert [process.wait() for process in processes] == [0] * len(processes)
    assert log.read_text() == "start end " * len(processes)


@needs_gpu
def test_render_on_a_gpu_uses_gsplat():
    pytest.importorskip("gsplat")
    gaussians = Gaussians(*(torch.zeros(2, *shape) for shape in ((3,), (3,), (4,), (), (1, 3)))).to("cuda")
    rendering = render(gaussians, orbit(1, 0.0, 3.5, 0.55, 16), torch.ones(3))
    assert rendering.rgb.device.type == "cuda"
    assert "sctd.render.gsplat_backend" in sys.modules


@needs_gpu
@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_parity_of_cpu_and_gpu(seed, antialiased):
    pytest.importorskip("gsplat")
    gsplat_backend = importlib.import_module("sctd.render.gsplat_backend")
    splats, cameras, backgrounds = random_scene(seed, num=500, size=64, scale=[0.01, 0.03, 0.06, 0.2][seed])
    results = []
    for backend, device in ((cpu_autograd, "cpu"), (gsplat_backend, "cuda")):
        leaves = leaves_of(splats, device=device)
        rasterized = backend.rasterize(leaves, cameras.to(device), backgrounds.to(device), antialiased=antialiased)
        # Compute the loss on the CPU, because random weights differ between devices.
        random_loss(*(part.cpu() for part in rasterized[:3])).backward()
        gradients = [*(leaf.grad for leaf in leaves), rasterized.means2d.grad]
        results.append((rasterized, [gradient.cpu() for gradient in gradients]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert torch.equal(theirs.radii.cpu(), ours.radii)
    for name in ("image", "alpha", "depth"):
        atol = 2e-4 * float(getattr(ours, name).detach().abs().max())
        torch.testing.assert_close(getattr(theirs, name).cpu(), getattr(ours, name), atol=atol, rtol=0, msg=name)
    for name, our_gradient, their_gradient in zip(
        [*Splats._fields, "means2d"], our_gradients, their_gradients, strict=True
    ):
        error = float((their_gradient - our_gradient).abs().max() / our_gradient.abs().max())
        assert error < 1e-3, (name, error)
