#!/usr/bin/env bash
# PettingZoo 1.27.0, butterfly/cooperative_pong-v6: made without a render_mode, as one does for training, every observation
# is black. (pistonball-v6 freezes in the same way.) The game and its rewards continue; the only sign is one warning that
# render() was called without a mode, by the game itself.
#
# Expected: observations do not depend on whether the game is shown.
# Cause:    observations are cut out of the surface that render() draws on, which returns at once without a render_mode.
#
# Output seen:
#   render_mode=None: brightest pixel 0, 0 of 20 observations differ from the first
#   render_mode='rgb_array': brightest pixel 255, 20 of 20 observations differ from the first
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6 pygame-ce==2.5.8 pymunk==7.3.1
PYGAME_HIDE_SUPPORT_PROMPT=1 "$folder/venv/bin/python" - <<'PY'
import numpy as np
from pettingzoo.butterfly import cooperative_pong_v6

seen = {}
for mode in (None, "rgb_array"):
    env = cooperative_pong_v6.parallel_env(render_mode=mode)
    first, _ = env.reset(seed=1)
    brightest, moved = 0, 0
    for step in range(20):
        pictures, *_ = env.step({agent: step % 3 for agent in env.agents})
        brightest = max(brightest, max(int(picture.max()) for picture in pictures.values()))
        moved += any(np.any(picture != first[agent]) for agent, picture in pictures.items())
    env.close()
    print(f"render_mode={mode!r}: brightest pixel {brightest}, {moved} of 20 observations differ from the first")
    seen[mode] = (brightest, moved)
raise SystemExit(0 if seen == {None: (0, 0), "rgb_array": (255, 20)} else "the behaviour has changed")
PY
