#!/usr/bin/env bash
# trimesh: a mesh of voxels has faces that look outwards and vertex normals that point inwards, also in its .ply, .glb and .obj.
#
# Version: trimesh 5.2.0 with scikit-image 0.26.0, numpy 2.4.6, scipy 1.17.1.
# Guess: VoxelGrid.marching_cubes and voxel.ops.matrix_to_marching_cubes give a mesh whose normals are those of its faces.
# Instead: all vertex normals point into the object. trimesh gives scikit-image the empty space in place of the object, which turns
#   the faces the right way. But scikit-image's normals point to the smaller values whichever way the faces look, that is inwards
#   now, and trimesh keeps them. The exports write them. The faces and the volume are right, nothing warns, and reading the file
#   with trimesh hides it: then the normals are those of the faces.
# Why it matters: viewers shade by the normals of the file, so the asset is dark on the side of the light; whoever moves along
#   the normals, to thicken or to bake, goes the wrong way. Make a new Trimesh of the vertices and the faces.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q trimesh==5.2.0 scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import io
import json
import struct

import numpy as np
import trimesh

CENTRE = 15
ball = np.linalg.norm(np.indices((31, 31, 31)) - CENTRE, axis=0) < 10  # the ball's centre is voxel (15, 15, 15)


def outward(points, directions):
    """The share of directions that point away from the centre of the ball."""
    return float((((points - CENTRE) * directions).sum(1) > 0).mean())


def of_ply(data):
    """Positions and normals of a binary .ply."""
    header, body = data.split(b"end_header\n", 1)
    lines = header.decode().split("\n")
    count = next(int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    names = [line.split()[2] for line in lines if line.startswith("property float")]
    assert names == ["x", "y", "z", "nx", "ny", "nz"]
    table = np.frombuffer(body, "<f4", 6 * count).reshape(count, 6)
    return table[:, :3], table[:, 3:]


def of_glb(data):
    """Positions and normals of a .glb."""
    length = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + length])
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]

    def array(name):
        accessor = tree["accessors"][attributes[name]]
        start = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
        return np.frombuffer(data, "<f4", 3 * accessor["count"], 28 + length + start).reshape(-1, 3)

    return array("POSITION"), array("NORMAL")


def of_obj(text):
    """Positions and normals of an .obj."""
    rows = [line.split() for line in text.split("\n")]
    return tuple(np.array([row[1:4] for row in rows if row[:1] == [word]], float) for word in ("v", "vn"))


found = {}
mesh = trimesh.voxel.VoxelGrid(ball).marching_cubes
other = trimesh.voxel.ops.matrix_to_marching_cubes(ball)
again = trimesh.Trimesh(mesh.vertices, mesh.faces)
faces = outward(mesh.triangles_center, mesh.face_normals)
print(f"faces that look outwards: {faces:.0%}; volume {mesh.volume:.0f} of {ball.sum()} voxels")
found["VoxelGrid.marching_cubes"] = outward(mesh.vertices, mesh.vertex_normals)
found["matrix_to_marching_cubes"] = outward(other.vertices, other.vertex_normals)
found["its .ply"] = outward(*of_ply(mesh.export(file_type="ply")))
found["its .glb"] = outward(*of_glb(mesh.export(file_type="glb")))
found["its .obj"] = outward(*of_obj(mesh.export(file_type="obj")))
for name, share in found.items():
    print(f"{name}: {share:.0%} of the vertex normals point outwards")
right = outward(again.vertices, again.vertex_normals)
reread = trimesh.load_mesh(io.BytesIO(mesh.export(file_type="ply")), file_type="ply")
hidden = outward(reread.vertices, reread.vertex_normals)
print(f"the .ply, read by trimesh: {hidden:.0%}")
print(f"a new mesh of the same vertices and faces: {right:.0%}")
raise SystemExit(0 if faces == hidden == right == 1 and set(found.values()) == {0.0} else "this has changed")
PYTHON
