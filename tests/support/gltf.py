"""Write small .glb and .gltf files by hand, with any accessor layout."""

import base64
import io
import json
import struct

import numpy as np
from PIL import Image

COMPONENTS = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """The JSON of a file and its buffer; `add` returns the number of a new accessor, `view` that of a buffer view."""

    def __init__(self, **content):
        self.buffer = bytearray()
        self.json = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}
        self.json |= {"accessors": [], "bufferViews": [], **content}

    def view(self, data, **options):
        """A buffer view with these bytes."""
        self.buffer += b"\0" * (-len(self.buffer) % 4)
        self.json["bufferViews"].append(
            {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data), **options}
        )
        self.buffer += data
        return len(self.json["bufferViews"]) - 1

    def add(self, values, kind="f4", **options):
        """An accessor with these values, contiguous in a buffer view of its own."""
        values = np.asarray(values, kind)
        rows = values.reshape(len(values), -1)
        accessor = {
            "bufferView": self.view(rows.tobytes()),
            "componentType": COMPONENTS[kind],
            "count": len(rows),
            "type": TYPES[rows.shape[1]],
        }
        self.json["accessors"].append({**accessor, **options})
        return len(self.json["accessors"]) - 1

    def image(self, rgba, **texture):
        """A texture with a PNG of this image, as texture 0."""
        self.json["images"] = [{"bufferView": self.view(png(rgba)), "mimeType": "image/png"}]
        self.json["textures"] = [{"source": 0, **texture}]

    def images(self, pictures):
        """Textures with these images, shown texel for texel."""
        self.json["images"] = [{"bufferView": self.view(png(rgba)), "mimeType": "image/png"} for rgba in pictures]
        self.json["textures"] = [{"source": number, "sampler": 0} for number in range(len(pictures))]
        self.json["samplers"] = [{"magFilter": 9728}]

    def glb(self):
        """The file as .glb."""
        self.json["buffers"] = [{"byteLength": len(self.buffer)}]
        return glb(json.dumps(self.json).encode(), bytes(self.buffer))

    def gltf(self, uri=None):
        """The file as .gltf with the buffer as data, or in a file of this name."""
        data = "data:application/octet-stream;base64," + base64.b64encode(self.buffer).decode()
        self.json["buffers"] = [{"byteLength": len(self.buffer), "uri": uri or data}]
        return json.dumps(self.json).encode()


def glb(content, buffer):
    """A .glb of any JSON and buffer."""
    content += b" " * (-len(content) % 4)
    buffer += b"\0" * (-len(buffer) % 4)
    chunks = struct.pack("<I4s", len(content), b"JSON") + content + struct.pack("<I4s", len(buffer), b"BIN\0") + buffer
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def png(rgba):
    """An image as PNG."""
    target = io.BytesIO()
    Image.fromarray(np.asarray(rgba, np.uint8)).save(target, "PNG")
    return target.getvalue()
