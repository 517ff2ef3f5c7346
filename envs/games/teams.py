"""Who plays with whom in a PettingZoo environment, as ``--teams`` says."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from machina.errors import UserError, nearest

BY_NAME, ALONE = "names", "agents"
"""Agents whose names agree before the last ``_`` are one team; each agent is its own."""


def group(agent: str) -> str:
    """An agent's name before the last ``_``."""
    return agent.rpartition("_")[0] or agent


def team_numbers(teams: str, agents: Sequence[str]) -> list[int]:
    """The team of each agent, from 0 on.

    Args:
        teams: ``names``, ``agents``, or teams joined by ``,``, each of them patterns joined by ``+``:
            ``redmelee+redranged,bluemelee+blueranged``. A pattern stands for agents whose name, or name before the last
            ``_``, it matches as a shell's would.
        agents: their names.

    Raises:
        UserError: an agent is in no team or in two, or a pattern matches nobody.
    """
    groups = [group(agent) for agent in agents]
    if teams == BY_NAME:
        return [list(dict.fromkeys(groups)).index(each) for each in groups]
    if teams == ALONE:
        return list(range(len(agents)))
    patterns = [(number, each.strip()) for number, team in enumerate(teams.split(",")) for each in team.split("+")]
    found: dict[str, int] = {}
    for number, pattern in patterns:
        matched = [agent for agent in agents if fnmatchcase(agent, pattern) or fnmatchcase(group(agent), pattern)]
        if not matched:
            hint = nearest(pattern, dict.fromkeys(groups)) or f"; there are {', '.join(dict.fromkeys(groups))}"
            raise UserError(f"teams={teams}: {pattern!r} is the name of no agent{hint}")
        for agent in matched:
            if found.setdefault(agent, number) != number:
                raise UserError(f"teams={teams}: {agent} is in two teams; name it in one")
    if missing := [agent for agent in agents if agent not in found]:
        raise UserError(f"teams={teams}: {missing[0]} is in no team; name it in one")
    return [found[agent] for agent in agents]


def two_teams(agents: Sequence[str]) -> str:
    """What ``--teams`` could be, as an example that makes two teams; empty for a single agent."""
    names = list(dict.fromkeys(group(agent) for agent in agents))
    names = names if len(names) > 1 else list(agents)
    half = len(names) // 2
    return f"{'+'.join(names[:half])},{'+'.join(names[half:])}" if half else ""
