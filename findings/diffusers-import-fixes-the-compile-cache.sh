#!/usr/bin/env bash
# Importing diffusers decides where torch.compile keeps its results, in the environment of the process.
#
# Version: diffusers 0.42.1 with torch 2.13.0.
# Guess: an import sets no variable of the environment. A program that wants its compiled kernels in a folder that survives
#   a restart sets a default for TORCHINDUCTOR_CACHE_DIR before it compiles, and a user's own value wins.
# Instead: after `import torch` the variable is unset, and after `import diffusers` it names a folder below the temporary one:
#   diffusers imports the compiler, which writes its own default into os.environ. A default that a program sets later, with
#   `os.environ.setdefault`, is ignored as if the user had chosen; without diffusers the same line works.
# Why it matters: distillation, sampling and evaluation of diffusion models import diffusers first and compile for a minute later.
#   On machines that empty the temporary folder, and between commands of one program that import in another order, everything
#   is compiled again, and nothing says so. Set the variable before the import.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
unset TORCHINDUCTOR_CACHE_DIR
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import os
import torch
print(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
{library}
print(os.environ.get("TORCHINDUCTOR_CACHE_DIR"))
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", {kept!r})
from torch._inductor.runtime.cache_dir_utils import cache_dir
print(cache_dir())
"""
kept = str(Path("kept").resolve())
found = {}
for library in ("pass", "import diffusers"):
    program = PROGRAM.format(library=library, kept=kept)
    lines = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    found[library] = [line.replace(tempfile.gettempdir(), "TMP") for line in lines]
    after_torch, after_library, used = found[library]
    print(f"{library}: after torch {after_torch}, then {after_library}; the default set later is used: {used.endswith('kept')}")
is_as_stated = (
    found["pass"][:2] == ["None", "None"]
    and found["pass"][2].endswith("kept")
    and found["import diffusers"][0] == "None"
    and found["import diffusers"][1].startswith("TMP/torchinductor_")
    and found["import diffusers"][2] == found["import diffusers"][1]
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
