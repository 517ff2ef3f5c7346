"""Who plays with whom, by the names of the agents."""

from collections import defaultdict

import pytest

from machina.envs.builders import parse_environment
from machina.envs.config import GameConfig
from machina.envs.games.teams import team_numbers, two_teams
from machina.errors import UserError
from machina.specs import EnvSpec

RED = [f"{kind}_{i}" for kind in ("redmelee", "redranged") for i in range(2)]
BLUE = [f"{kind}_{i}" for kind in ("bluemelee", "blueranged") for i in range(2)]


def members(spec: EnvSpec) -> list[set[str]]:
    teams: dict[int, set[str]] = defaultdict(set)
    for seat in spec.seats:
        teams[seat.team].add(seat.agent)
    return [teams[team] for team in sorted(teams)]


@pytest.mark.parametrize(
    "teams", ["redmelee+redranged,bluemelee+blueranged", "red*,blue*", "red*, bluemelee + blueranged_*"]
)
def test_combined_arms_is_two_teams_of_81(teams: str) -> None:
    spec = parse_environment("magent2.environments.combined_arms_v6", GameConfig(teams=teams)).spec
    red, blue = members(spec)
    assert (len(red), len(blue)) == (81, 81)
    assert {agent[:3] for agent in red} == {"red"}
    assert {agent[:4] for agent in blue} == {"blue"}
    assert spec.num_tasks == 4, "roles stay what they are"
    assert spec.protocol["teams"] == teams


def test_quadrapong_is_two_against_two() -> None:
    name = "pettingzoo:atari/quadrapong-v4"
    assert parse_environment(name, GameConfig()).spec.num_teams == 4
    factory = parse_environment(name, GameConfig(teams="first+third,second+fourth"))
    assert members(factory.spec) == [{"first_0", "third_0"}, {"second_0", "fourth_0"}]


def test_names_agents_and_patterns() -> None:
    assert team_numbers("names", RED + BLUE) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert team_numbers("agents", RED) == [0, 1, 2, 3]
    assert team_numbers("*", RED + BLUE) == [0] * 8, "who all play together"
    assert team_numbers("*_0,*_1", RED) == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("teams", "message"),
    [
        ("red*,bluemelee", "teams=red*,bluemelee: blueranged_0 is in no team; name it in one"),
        ("red*,redmelee+blue*", "redmelee_0 is in two teams; name it in one"),
        ("red*,bleumelee+blueranged", "'bleumelee' is the name of no agent; did you mean 'bluemelee'"),
        ("red*,blue*,", "'' is the name of no agent; there are redmelee, redranged, bluemelee, blueranged"),
        ("Names", "'Names' is the name of no agent; there are"),
    ],
)
def test_teams_that_are_none(teams: str, message: str) -> None:
    with pytest.raises(UserError) as refusal:
        team_numbers(teams, RED + BLUE)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "agents", [RED + BLUE, ["player_1", "player_2"], ["a", "b", "c"], ["agent_0", "agent_1", "agent_2"]]
)
def test_the_example_makes_two_teams(agents: list[str]) -> None:
    assert len(set(team_numbers(two_teams(agents), agents))) == 2


def test_one_agent_is_no_two_teams() -> None:
    assert two_teams(["agent_0"]) == two_teams([]) == ""
