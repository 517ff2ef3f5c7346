#!/usr/bin/env bash
# cpprb 11.0.0, ReplayBuffer with Nstep: windows at the end of an episode are stored wrong. The window whose last step ends
# the episode has done 0, so a learner bootstraps from the terminal state; the shorter windows after it have a next_obs of
# 1, which is no observation that was ever added, and after a time limit (done 0) a learner bootstraps from that.
#
# Expected: done 1 for every window that contains the terminal step; the episode's last observation as its next_obs.
#
# Output seen (observations 10 to 16, n = 3, the sixth step terminal; then the same, cut by a time limit):
#   terminal: next_obs [13, 14, 15, 16, 1, 1], done [0, 0, 0, 0, 1, 1]
#   time limit: next_obs [13, 14, 15, 16, 1, 1], done [0, 0, 0, 0, 0, 0]
#   right would be: next_obs [13, 14, 15, 16, 16, 16], done [0, 0, 0, 1, 1, 1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet cpprb==11.0.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PY'
from cpprb import ReplayBuffer

fields = {"obs": {}, "act": {}, "rew": {}, "next_obs": {}, "done": {}}
seen = {}
for end in ("terminal", "time limit"):
    buffer = ReplayBuffer(32, fields, Nstep={"size": 3, "gamma": 1.0, "rew": "rew", "next": "next_obs"})
    for step in range(6):
        done = float(end == "terminal" and step == 5)
        buffer.add(obs=10 + step, act=0, rew=1.0, next_obs=11 + step, done=done)
    buffer.on_episode_end()
    stored = buffer.get_all_transitions()
    seen[end] = [[int(value) for value in stored[key].ravel()] for key in ("next_obs", "done")]
    print(f"{end}: next_obs {seen[end][0]}, done {seen[end][1]}")
print("right would be: next_obs [13, 14, 15, 16, 16, 16], done [0, 0, 0, 1, 1, 1]")
wrong = [13, 14, 15, 16, 1, 1]
known = {"terminal": [wrong, [0, 0, 0, 0, 1, 1]], "time limit": [wrong, [0] * 6]}
raise SystemExit(0 if seen == known else "the behaviour has changed")
PY
