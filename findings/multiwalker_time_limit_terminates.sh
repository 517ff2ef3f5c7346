#!/usr/bin/env bash
# PettingZoo 1.27.0, sisl/multiwalker-v9: an episode that is cut by max_cycles is reported as terminated, not as truncated,
# so a learner takes the value after the cut for 0. The neighbour sisl/pursuit-v5 reports its own cut as truncated.
#
# Expected: the time limit sets truncated; terminated is for falls and for the end of the terrain.
#
# Output seen (max_cycles=20, nobody moves, nothing falls):
#   multiwalker_v9: 20 steps, terminated {True}, truncated {False}
#   pursuit_v5: 20 steps, terminated {False}, truncated {True}
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6 pygame-ce==2.5.8 Box2D==2.3.10 \
    scipy==1.17.1
PYGAME_HIDE_SUPPORT_PROMPT=1 "$folder/venv/bin/python" -W ignore - <<'PY'
import numpy as np
from pettingzoo.sisl import multiwalker_v9, pursuit_v5

seen = {}
for module, still in ((multiwalker_v9, np.zeros(4, np.float32)), (pursuit_v5, 4)):
    env = module.parallel_env(max_cycles=20)
    env.reset(seed=1)
    steps = 0
    while env.agents:
        _, rewards, terminated, truncated, _ = env.step({agent: still for agent in env.agents})
        steps += 1
    flags = set(terminated.values()), set(truncated.values())
    name = module.__name__.rpartition(".")[2]
    print(f"{name}: {steps} steps, terminated {flags[0]}, truncated {flags[1]}")
    seen[name] = (steps, *flags)
known = {"multiwalker_v9": (20, {True}, {False}), "pursuit_v5": (20, {False}, {True})}
raise SystemExit(0 if seen == known else "the behaviour has changed")
PY
