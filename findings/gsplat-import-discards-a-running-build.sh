#!/usr/bin/env bash
# gsplat: importing its kernels removes torch's lock of a build that another process is running, and the build's files.
#
# Version: gsplat 1.5.3 with torch 2.13.0.
# Guess: several processes may import gsplat for the first time at once. torch guards a just-in-time build by a lock file in
#   the build folder: one process compiles, the others wait for it.
# Instead: on import, gsplat deletes that lock, in case an interrupted build left it. If the folder has no finished library
#   yet, it deletes the folder, too. So each process discards what the others have compiled so far, and all compile at once.
# Why it matters: workers of one machine start together. Sixteen of them on a fresh machine compiled all of the CUDA files each,
#   at the same time and into the same folder; minutes later none had rendered an image. A changed TORCH_CUDA_ARCH_LIST is
#   enough to start it again. Compile once beforehand, or hold a lock of your own around the import.
# No GPU and no CUDA are needed here: the compiler is a stand-in, so the second process gets no further than to its own build.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q gsplat==1.5.3 torch==2.13.0 numpy setuptools ninja packaging 2>/dev/null
mkdir -p "$folder/cuda/bin" "$folder/builds/gsplat_cuda"
printf '#!/bin/sh\nexit 1\n' > "$folder/cuda/bin/nvcc"
chmod +x "$folder/cuda/bin/nvcc"
cd "$folder"
export CUDA_HOME="$folder/cuda" TORCH_EXTENSIONS_DIR="$folder/builds" TORCH_CUDA_ARCH_LIST=9.0
PATH="$folder/env/bin:$PATH" "$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
import threading
from pathlib import Path

from torch.utils.file_baton import FileBaton

build = Path("builds/gsplat_cuda")
running = FileBaton(str(build / "lock"))  # as torch does in the process that builds
print(f"the first process has torch's lock: {running.try_acquire()}")
(build / "compiled.o").write_bytes(b"the work of the first process so far")
print(f"a second one would get it: {FileBaton(str(build / 'lock')).try_acquire()}, and would wait")


def load():
    try:
        import gsplat.cuda._backend  # noqa: F401
    except Exception as error:  # the stand-in compiles nothing
        print(f"the second process had to build, and ended with {type(error).__name__}")


second = threading.Thread(target=load, daemon=True)
second.start()
second.join(120)
waits, kept = second.is_alive(), (build / "compiled.o").exists()
print(f"the second process waits: {waits}")
print(f"the file of the first process is still there: {kept}")
raise SystemExit(0 if not waits and not kept else "this has changed")
PYTHON
