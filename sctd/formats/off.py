"""`.off` → mesh, with colours of vertices (COFF) or faces, which trimesh drops."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from sctd.formats.common import FormatError, shown
from sctd.formats.mesh_data import GREY, AlphaMode, Mesh, Part, Piece, assemble, check_count
from sctd.formats.text_lines import MAX_LINES, text_lines


def from_off(data: bytes) -> Mesh:
    """Read an .off with faces of any number of corners. Raises FormatError."""
    lines = _Lines(data)
    prefix = lines.words[0].upper().removesuffix("OFF")
    if not lines.words[0].upper().endswith("OFF") or "4" in prefix or "N" in prefix.replace("CN", ""):
        raise lines.invalid()
    counts = lines.words[1:] or lines.next()
    num_vertices, num_faces = lines.numbers(counts, int, 2)[:2]
    if min(num_vertices, num_faces) < 0 or num_vertices + num_faces > min(len(data), MAX_LINES):
        raise FormatError(f"The .off announces {num_vertices:,} vertices and {num_faces:,} faces; export it again.")
    skip = 3 if "N" in prefix else 0  # normals
    vertices = np.empty((num_vertices, 3))
    paint = np.ones((num_vertices if "C" in prefix else 0, 4))
    for row in range(num_vertices):
        words = lines.next()
        vertices[row] = lines.numbers(words, float, 3)[:3]
        if "C" in prefix:
            paint[row] = lines.color(words[3 + skip :])
    faces: list[tuple[int, int, int]] = []
    face_paint: list[tuple[float, ...]] = []
    for _ in range(num_faces):
        words = lines.next()
        size = lines.numbers(words, int, 1, 1)[0]
        corners = lines.numbers(words[1:], int, max(size, 1), size)
        color = lines.color(words[1 + size :]) if len(words) > size + 2 else ()
        for second, third in pairwise(corners[1:]):
            faces.append((corners[0], second, third))
            face_paint.append(color)
        check_count(len(faces))
    index = np.array(faces, np.int64).reshape(-1, 3)
    if len(index) and (index.min() < 0 or index.max() >= num_vertices):
        raise FormatError(
            f"The .off has a face with vertex {index.max()}, but {num_vertices:,} vertices. Export it again."
        )
    if "C" in prefix:
        return assemble([_piece(vertices, index, paint)], [], linear=False)
    if not any(face_paint):
        part = Part(0, base_color=(GREY, GREY, GREY, 1.0))
        return assemble([Piece(vertices, index, part)], [], linear=False)
    rows = np.array([color or (GREY, GREY, GREY, 1.0) for color in face_paint])
    corner = np.arange(index.size).reshape(-1, 3)
    return assemble([_piece(vertices[index.ravel()], corner, rows.repeat(3, axis=0))], [], linear=False)


def _piece(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray) -> Piece:
    mode: AlphaMode = "BLEND" if colors[:, 3].min(initial=1) < 1 else "OPAQUE"
    return Piece(vertices, faces, Part(0, alpha_mode=mode), colors=colors)


class _Lines:
    """The lines of a file one after another, the first in `words`."""

    def __init__(self, data: bytes):
        self.lines: Iterator[tuple[int, list[str]]] = text_lines(data, ".off")
        self.number, self.words = 0, [""]
        self.next()

    def next(self) -> list[str]:
        """The words of the next line. Raises FormatError at the end."""
        try:
            self.number, self.words = next(self.lines)
        except StopIteration:
            raise FormatError(f"The .off ends after line {self.number:,}; copy or export it again.") from None
        return self.words

    def numbers(self, words: list[str], kind: type, least: int, most: int | None = None) -> list:
        """The first `most` words as numbers; at least `least`."""
        try:
            values = [kind(word) for word in words[:most]]
        except ValueError:
            raise self.invalid() from None
        if len(values) < least:
            raise self.invalid()
        return values

    def color(self, words: list[str]) -> tuple[float, float, float, float]:
        """Three or four numbers in [0, 1], or integers up to 255."""
        values = self.numbers(words, float, 3, 4)
        divisor = 1 if any(mark in word for word in words[:4] for mark in ".eE") else 255
        red, green, blue, alpha = [value / divisor for value in values] + [1.0] * (4 - len(values))
        return red, green, blue, alpha

    def invalid(self) -> FormatError:
        """The error of the current line."""
        line = shown(" ".join(self.words), 40)
        return FormatError(f"Line {self.number:,} of the .off is invalid ({line}); export it again.")
