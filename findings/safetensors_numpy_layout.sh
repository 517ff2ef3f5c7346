#!/usr/bin/env bash
# safetensors 0.8.0, safetensors.numpy: an array that is not C-contiguous (a transpose, a column cut, Fortran order) is
# written with its shape and the bytes as they lie in memory; what is read back has other values. No error, no warning.
# safetensors.torch refuses such tensors.
#
# Expected: the values survive, or the array is refused.
#
# Output seen:
#   transposed: [[0, 3], [1, 4], [2, 5]] was read back as [[0, 1], [2, 3], [4, 5]]
#   every second column: [[0, 2], [3, 5]] was read back as [[0, 1], [2, 3]]
#   Fortran order: [[0, 1, 2], [3, 4, 5]] was read back as [[0, 3, 1], [4, 2, 5]]
#   C order: [[0, 1, 2], [3, 4, 5]] was read back as [[0, 1, 2], [3, 4, 5]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from safetensors.numpy import load, save

array = np.arange(6).reshape(2, 3)
layouts = {
    "transposed": array.T,
    "every second column": array[:, ::2],
    "Fortran order": np.asfortranarray(array),
    "C order": array,
}
kept = []
for name, saved in layouts.items():
    read = load(save({"array": saved}))["array"]
    print(f"{name}: {saved.tolist()} was read back as {read.tolist()}")
    kept.append(np.array_equal(read, saved))
raise SystemExit(0 if kept == [False, False, False, True] else "the behaviour has changed")
PY
