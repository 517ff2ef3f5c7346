#!/usr/bin/env bash
# ale-py 0.12.1, AtariVectorEnv: noop_max=N starts an episode with 0 to N-1 no-ops, so noop_max=1 with none at all. Gymnasium's
# AtariPreprocessing(noop_max=N) does 1 to N, and the papers' "up to 30" is noop_max=31 here.
#
# Expected: at most N no-ops, and N of them sometimes.
#
# Output seen (Pong, frames played by the reset over 60 seeds):
#   noop_max=1: [0]
#   noop_max=3: [0, 1, 2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from ale_py.vector_env import AtariVectorEnv

seen = {}
for most in (1, 3):
    env = AtariVectorEnv("pong", num_envs=4, noop_max=most, use_fire_reset=False, repeat_action_probability=0.0)
    frames = set()
    for first in range(0, 60, 4):
        _, info = env.reset(seed=np.arange(first, first + 4))
        frames |= set(map(int, info["frame_number"]))
    env.close()
    seen[most] = sorted(frames)
    print(f"noop_max={most}: {seen[most]}")
raise SystemExit(0 if seen == {1: [0], 3: [0, 1, 2]} else "the behaviour has changed")
PY
