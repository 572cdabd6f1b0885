"""The importer worker: a file of somebody else's asset → an object in our axes, turntable and contact sheet.

It does for imported assets what the generator does for ours: all files are in the item's folder, and a finished job is
not run again.
"""

import math
from collections.abc import Generator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch

from cluster.scheduling.workers import Progress
from evaluation.clip_score import ClipScorer
from pipeline.assets import foreign, images
from pipeline.assets.objects import Splats, StoredViews, Surface
from pipeline.errors import UserError
from pipeline.plan.imports import AUTO, ImportJob
from pipeline.plan.protocol import Protocol
from pipeline.store.attempts import Attempt, published
from pipeline.store.records import GeneratedAsset, ImportFacts
from pipeline.store.run_folder import CONTACT, TURNTABLE, Store
from pipeline.weights.models import Weights
from pipeline.work import devices, fronts
from pipeline.work.generate import TURNTABLE_ELEVATION_DEGREES, TURNTABLE_VIEWS
from sctd.formats.common import LENGTHS
from sctd.scene.cameras import orbit
from sctd.scene.enclosing import upright_ball

BALL_RADIUS = 0.95  # 3.5 sin(0.55 / 2): the ball touches the border of the scored views
STEPS = 4


class Placed(NamedTuple):
    """An object in its final place, and how it came there."""

    object: Splats | Surface | StoredViews
    placing: dict[str, Any]


class Importer:
    """A worker that imports assets. `protocol`: the views that ready-made ones must include."""

    def __init__(self, store: Store, weights: Weights, protocol: Protocol):
        self.store, self.weights, self.protocol = store, weights, protocol
        self.device = devices.prepare()

    def __call__(self, job: ImportJob) -> Generator[Progress, bool | None, GeneratedAsset]:
        facts = published(self.store, job.id)
        if facts is None:
            attempt = Attempt.start(self.store, job.id)
            facts = attempt.commit((yield from self._import(job, attempt)))
        return GeneratedAsset(job.id, job.prompt.text, facts)

    def _import(self, job: ImportJob, attempt: Attempt) -> Generator[Progress, bool | None, ImportFacts]:
        if job.entry.path is None:
            raise UserError(f"{job.entry.name} does not exist; correct the table of --prompts, or add the file.")
        found = foreign.read(job.entry.path, job.placing.up, job.size)
        yield Progress(1, STEPS, f"read {job.entry.name}")
        placed = self._placed(job, found.object)
        yield Progress(2, STEPS, "placed")
        views = self._turntable(placed.object, job)
        yield Progress(3, STEPS, "rendered")
        attempt.write_output(placed.object.file, placed.object.to_bytes())
        attempt.write_output(TURNTABLE, images.video(views))
        attempt.write_output(CONTACT, images.contact_sheet(views, job.prompt.text))
        yield Progress(STEPS, STEPS, "written")
        return ImportFacts(
            file=job.entry.name,
            sha256=job.sha256,
            format=found.format,
            up=found.up,
            image_size=job.size,
            attempt=attempt.fence.number,
            warnings=found.notes,
            **placed.placing,
            **_size_of(placed.object, job),
        )

    def _placed(self, job: ImportJob, found: Splats | Surface | StoredViews) -> Placed:
        """The object in the ball of the views, its front at azimuth 0."""
        if isinstance(found, StoredViews):
            found.views(self.protocol.cameras(job.size), self.device)  # raises UserError if some are missing
            front = self._front(job, found.images[:: max(1, len(found.images) // fronts.NUM_VIEWS)])
            return Placed(found.from_front(front["front_degrees"]), front)
        scale, shift = 1.0, np.zeros(3)
        if job.placing.fit == "ball":
            ball = upright_ball(found.points)
            if not ball.radius > LENGTHS[0]:
                raise UserError("The object has no extent: all of it is at one point; export it again.")
            scale = BALL_RADIUS / ball.radius
            shift = -scale * ball.centre
        if scale != 1 or shift.any():
            found = found.transformed(torch.eye(3, dtype=torch.float64), scale, shift)
        front = self._front(job, self._ring(found, job) if job.placing.front == AUTO else None)
        if degrees := front["front_degrees"]:
            found = found.transformed(_turn(-degrees), 1.0, np.zeros(3))
        about = {"fit": job.placing.fit, "scale": scale, "shift": tuple(shift.tolist())}
        return Placed(found, about | front)

    def _front(self, job: ImportJob, views: np.ndarray | None) -> dict[str, Any]:
        """The facts of the front: as given or, of these views around the object, by the scorer."""
        if job.placing.front != AUTO or views is None:
            return {"front_degrees": float(job.placing.front), "front": "given"}
        texts = self._scorer.text_features(fronts.captions(job.prompt.text))
        found = fronts.find(self._scorer.image_features(views) @ texts.T)
        is_clear = found.certainty >= fronts.MIN_CERTAINTY
        return {
            "front_degrees": found.azimuth_degrees if is_clear else 0.0,
            "front": AUTO if is_clear else "unclear",
            "front_certainty": found.certainty,
        }

    def _ring(self, found: Splats | Surface, job: ImportJob) -> np.ndarray:
        cameras = orbit(fronts.NUM_VIEWS, 0.0, 3.5, 0.55, job.size)
        return found.views(cameras, self.device, job.placing.shading)

    def _turntable(self, found: Splats | Surface | StoredViews, job: ImportJob) -> np.ndarray:
        if isinstance(found, StoredViews):
            return found.images
        cameras = orbit(TURNTABLE_VIEWS, TURNTABLE_ELEVATION_DEGREES, 3.5, 0.55, job.size)
        return found.views(cameras, self.device, job.placing.shading)

    @cached_property
    def _scorer(self) -> ClipScorer:
        return ClipScorer.load(self.weights.part("scorer"), self.device, self.weights.name)


def _turn(degrees: float) -> torch.Tensor:
    """The rotation about the vertical axis."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def _size_of(found: Splats | Surface | StoredViews, job: ImportJob) -> dict[str, Any]:
    if isinstance(found, Splats):
        return {"num_gaussians": found.gaussians.num}
    if isinstance(found, Surface):
        return {"num_triangles": len(found.mesh.faces), "shading": job.placing.shading}
    return {"num_views": len(found.images)}
