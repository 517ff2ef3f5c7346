#!/usr/bin/env bash
# PettingZoo 1.27.0 with multi-agent-ale-py 0.1.12, atari/boxing-v2 (and 19 more of the 24 games): reset(seed=...) changes
# nothing. Every episode of every seed is the same for the same actions. And both players are handed one array object, so
# that whoever writes into the one observation writes into the other.
#
# Expected: different seeds give different episodes; each agent's observation is its own array.
#
# Output seen:
#   200 steps with seed 1 and seed 2: all frames equal
#   first_0 and second_0 hold the same array object: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6 multi-agent-ale-py==0.1.12 \
    pygame-ce==2.5.8 ale-py==0.12.1
PYGAME_HIDE_SUPPORT_PROMPT=1 "$folder/venv/bin/python" - <<'PY'
from pathlib import Path

import ale_py
import numpy as np
from pettingzoo.atari import boxing_v2

env = boxing_v2.parallel_env(auto_rom_install_path=str(Path(ale_py.__file__).parent / "roms"))
films = []
for seed in (1, 2):
    observations, _ = env.reset(seed=seed)
    film = [observations["first_0"].copy()]
    for step in range(200):
        observations, *_ = env.step({agent: step * 7 % 18 for agent in env.agents})
        film.append(observations["first_0"].copy())
    films.append(np.array(film))
equal = bool((films[0] == films[1]).all())
shared = observations["first_0"] is observations["second_0"]
print("200 steps with seed 1 and seed 2:", "all frames equal" if equal else "frames differ")
print("first_0 and second_0 hold the same array object:", shared)
assert len({frame.tobytes() for frame in films[0]}) > 50, "the game stood still"
raise SystemExit(0 if equal and shared else "the behaviour has changed")
PY
