#!/usr/bin/env bash
# magent2 0.3.4, every map: in the first step after each reset, all teams play the actions of the first team's agents;
# what the others chose is dropped. From the second step on everybody plays their own.
#
# Expected: each agent plays the action that was given for it.
# Cause:    step() cuts the list of actions by team_sizes, and reset() leaves these at 0 until rewards have been read.
#
# Output seen (battle, 6 against 6; red is to stay, blue to move):
#   after reset: team_sizes [0, 0]
#   step 1: 0 red and 0 blue agents moved
#   step 2: 0 red and 6 blue agents moved
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet magent2==0.3.4 pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6 pygame-ce==2.5.8
PYGAME_HIDE_SUPPORT_PROMPT=1 "$folder/venv/bin/python" -W ignore - <<'PY'
from magent2.environments import battle_v4

STAY, MOVE = 6, 7  # of 21 actions: the middle of the 13 moves, and the one next to it
env = battle_v4.parallel_env(map_size=16)
env.reset(seed=1)
game = env.unwrapped
print("after reset: team_sizes", list(map(int, game.team_sizes)))
moved = []
for step in (1, 2):
    before = [game.env.get_pos(team).copy() for team in game.handles]
    env.step({agent: STAY if agent.startswith("red") else MOVE for agent in env.agents})
    after = [game.env.get_pos(team) for team in game.handles]
    moved.append([int((old != new).any(axis=1).sum()) for old, new in zip(before, after)])
    print(f"step {step}: {moved[-1][0]} red and {moved[-1][1]} blue agents moved")
raise SystemExit(0 if moved == [[0, 0], [0, 6]] else "the behaviour has changed")
PY
