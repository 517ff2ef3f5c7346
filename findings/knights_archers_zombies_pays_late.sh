#!/usr/bin/env bash
# PettingZoo 1.27.0, butterfly/knights_archers_zombies-v11, parallel form: only the first agent is paid in the step of
# its kill; every other agent is paid one step later, and never for a kill in the last step of an episode.
#
# Expected: the reward of the parallel step t is for what happened in step t, for all agents alike, as for archer_0.
# Cause:    a step of the turn-based form sets the reward of the agent that moves next, and the parallel form adds up
#           those rewards; weapons strike after the last agent's move, so all but the next agent wait for another round.
#
# Output seen:
#   archer_0: 23 of 23 rewards in the step of the kill, 0 a step later
#   archer_1: 0 of 22 rewards in the step of the kill, 22 a step later
#   knight_0: 0 of 2 rewards in the step of the kill, 2 a step later
#   knight_1: 0 of 2 rewards in the step of the kill, 2 a step later
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet pettingzoo==1.27.0 gymnasium==1.4.0 numpy==2.4.6 pygame-ce==2.5.8 pymunk==7.3.1
PYGAME_HIDE_SUPPORT_PROMPT=1 "$folder/venv/bin/python" - <<'PY'
from collections import Counter

import numpy as np
from pettingzoo.butterfly import knights_archers_zombies_v11

at_once, late = Counter(), Counter()
env = knights_archers_zombies_v11.parallel_env(max_cycles=300)
for seed in range(8):
    env.reset(seed=seed)
    dice = np.random.default_rng(seed)
    earlier = {}
    while env.agents:
        # Action 4 attacks; 2 and 3 turn.
        actions = {agent: int(dice.choice([2, 3, 4, 4, 4, 4])) for agent in env.agents}
        _, rewards, *_ = env.step(actions)
        # What each agent killed since its own last move: in this step.
        kills = {name: agent.score for name, agent in env.unwrapped.agent_map.items()}
        for agent, reward in rewards.items():
            if reward:
                at_once[agent] += reward == kills[agent]
                late[agent] += reward == earlier.get(agent, 0)
        earlier = kills
for agent in env.possible_agents:
    paid = at_once[agent] + late[agent]
    print(f"{agent}: {at_once[agent]} of {paid} rewards in the step of the kill, {late[agent]} a step later")
others = env.possible_agents[1:]
same = at_once["archer_0"] > 0 and late["archer_0"] == 0 and all(at_once[a] == 0 and late[a] > 0 for a in others)
raise SystemExit(0 if same else "the behaviour has changed")
PY
