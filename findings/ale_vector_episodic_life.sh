#!/usr/bin/env bash
# ale-py 0.12.1, AtariVectorEnv: episodic_life=True restarts the whole game at every lost life. The usual wrappers of that
# name only report an end and play on with the lives that are left, so here the agent never sees the game beyond its first
# life, and returns are those of one life. life_loss_info=True is the option that plays on.
#
# Expected: terminated at a lost life, the next episode begins with one life fewer.
#
# Output seen (Breakout, 200 steps of 4 frames, at each terminated: lives and frame before -> after):
#   episodic_life: lives 4 -> 5, frame 97 -> 1; lives 4 -> 5, frame 97 -> 1; (four times the same)
#   life_loss_info: lives 4 -> 4, frame 97 -> 101; lives 3 -> 3, frame 497 -> 501; (and so on to 1)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ale-py==0.12.1 gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
import numpy as np
from ale_py.vector_env import AtariVectorEnv

changes = {}
for option in ("episodic_life", "life_loss_info"):
    env = AtariVectorEnv("breakout", num_envs=1, noop_max=0, repeat_action_probability=0.0, **{option: True})
    env.reset(seed=0)
    dice = np.random.default_rng(0)
    ended, lives, frame, found = False, 5, 0, []
    for _ in range(200):
        _, _, terminated, _, info = env.step(dice.integers(4, size=1))
        now = int(info["lives"][0]), int(info["episode_frame_number"][0])
        if ended:
            found.append((lives, now[0], frame, now[1]))
        ended, (lives, frame) = bool(terminated[0]), now
    env.close()
    changes[option] = found
    print(f"{option}: " + "; ".join(f"lives {a} -> {b}, frame {c} -> {d}" for a, b, c, d in found))
restarts = all(after == 5 and new < old for _, after, old, new in changes["episodic_life"])
plays_on = all(after <= before and new > old for before, after, old, new in changes["life_loss_info"])
same = all(map(len, changes.values())) and restarts and plays_on
raise SystemExit(0 if same else "the behaviour has changed")
PY
