"""Readers of references, their caches and baselines of nightly runs: arrays, and what describes them."""

import io
import json
import math
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from evaluation import EvaluationError, references
from evaluation.fid import Moments
from evaluation.references import Reference
from pipeline.errors import UserError
from pipeline.nightly import baseline, verdict
from pipeline.reference.cache import DamagedError, Shards, features_file, images_file
from pipeline.store.run_folder import Store
from tests.support import scored_run
from tests.support.fuzzing import (
    Choices,
    Refused,
    changed_trees,
    damaged,
    fuzz,
    json_files,
    made,
    outcome,
    put,
    to_json,
)
from tests.support.nightly_runs import nightly_run

REFERENCE = Reference(
    Moments.of(scored_run.features(1)), scored_run.features(1), {"network": "n", "weights": "w", "count": 3}
)
REFERENCE_FILE = references.to_bytes(REFERENCE)
with np.load(io.BytesIO(REFERENCE_FILE)) as _file:
    REFERENCE_ARRAYS = {name: _file[name] for name in _file.files}
ODD_ARRAYS = [
    np.array("x"),
    np.zeros(()),
    np.zeros((2, 3)),
    np.zeros(0),
    np.array([1, 2]),
    np.array(b"\xff"),
    np.array(True),
    np.array(np.nan),
    np.zeros(3, "M8[s]"),
    np.array("[" * 9_000),
    np.array("null"),
    np.array(1e300),
]


def npz_files(arrays: dict[str, np.ndarray]) -> st.SearchStrategy[bytes]:
    """Archives of these arrays with some missing, additional or different."""

    def make(choices: Choices) -> bytes:
        files = dict(arrays)
        for _ in range(1 + choices.below(2)):
            name = choices.of([*arrays, "other", "0 fd", "a b"])
            if choices.below(4):
                files[name] = choices.of(ODD_ARRAYS)
            else:
                files.pop(name, None)
        if "content" in files and choices.below(2):
            del files["content"]
            files["content"] = np.array(references._content(files))
        file = io.BytesIO()
        np.savez(file, **files)
        return file.getvalue()

    return made(make, 16)


def test_references():
    def check(file: bytes) -> None:
        found = outcome(lambda: references.from_bytes(file), EvaluationError)
        if not isinstance(found, Refused):
            assert references.from_bytes(references.to_bytes(found)).key == found.key
            assert found.moments.count > 0
            assert np.isfinite(found.moments.total).all()
            dim = len(found.moments.total)
            assert found.moments.outer.shape == (dim, dim)
            assert found.features is None or found.features.shape[1:] == (dim,)

    fuzz(st.one_of(npz_files(REFERENCE_ARRAYS), damaged(st.just(REFERENCE_FILE))), check)


def test_shards_of_references(tmp_path):
    features = Shards(Store(Path(tmp_path)), "features", {"a": 1})
    images = Shards(Store(Path(tmp_path)), "images", {"a": 1})
    arrays = {"features": np.zeros((2, 3), np.float32), "key": np.array(features.key)}
    features.write(0, features_file(arrays["features"], features.key))
    zipped = images_file([b"a", b"b"], ["0.png", "1.png"])
    images.write(0, zipped)

    def check(file: bytes) -> None:
        put(features.file(0), file)
        found = outcome(lambda: features.features(0, 2), DamagedError)
        assert isinstance(found, Refused) or (found.shape[0] == 2 and found.ndim == 2 and found.dtype.kind == "f")
        put(images.file(0), file)
        pngs = outcome(lambda: images.pngs(0, 2), DamagedError)
        assert isinstance(pngs, Refused) or len(pngs) == 2

    fuzz(
        st.one_of(
            npz_files(arrays),
            damaged(st.just(features_file(arrays["features"], features.key))),
            damaged(st.just(zipped)),
        ),
        check,
    )


def test_baselines(tmp_path):
    folder = Path(tmp_path)
    baseline.pin(folder, nightly_run(), {"by": "a", "date_utc": "2026-01-03T00:00:00+00:00", "reason": "b"})
    about, features = folder / "001" / "baseline.json", folder / "001" / "features.npz"
    intact, arrays = json.loads(about.read_bytes()), features.read_bytes()
    with np.load(io.BytesIO(arrays)) as file:
        stored = {name: file[name] for name in file.files}

    def check(parts: tuple[bytes, bytes, bool]) -> None:
        text, content, is_signed = parts
        if is_signed:
            try:
                tree = json.loads(text)
                tree["features_sha256"] = baseline._sha256(content)
                text = json.dumps(tree).encode()
            except (ValueError, TypeError, RecursionError):
                pass
        put(about, text)
        put(features, content)
        found = outcome(lambda: baseline.read(folder), UserError)
        if not isinstance(found, Refused):
            for result in found.nightly_run.objects:
                assert isinstance(result.method, str)
                assert isinstance(result.prompt, str)
                assert result.values is None or all(math.isfinite(value) for value in result.values.values())
                hash(result.key)

    files = st.tuples(
        st.one_of(st.just(to_json(intact)), json_files(st.just(intact))),
        st.one_of(st.just(arrays), npz_files(stored), damaged(st.just(arrays))),
        st.booleans(),
    )
    fuzz(files, check)


def test_history_of_baselines(tmp_path):
    path = Path(tmp_path) / baseline.HISTORY
    gate = {
        "method": "sctd", "metric": "clip", "better": "higher", "difference": 0.1, "low": None, "high": None,
        "delta": 0.5, "verdict": "PASS", "loss": -0.1,
    }  # fmt: skip
    line = {"run": "r", "baseline": 1, "date_utc": "2026-01-01", "verdict": "PASS", "reason": "", "gates": [gate]}

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: baseline.history(Path(tmp_path), 1), UserError)
        if not isinstance(found, Refused):
            assert len({each["run"] for each in found}) == len(found)
            assert all(math.isfinite(loss) for loss in verdict.losses_of(found, "sctd", "clip"))

    lines = st.lists(changed_trees(st.just(line)).map(to_json), max_size=3).map(b"\n".join)
    fuzz(st.one_of(lines, damaged(lines)), check)
