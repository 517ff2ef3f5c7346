"""Matches between players named on the command line: runs, their snapshots, scripted players."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator

from machina.checkpoint import RunDirectory
from machina.checkpoint.files import as_file_name, write_or_refuse
from machina.config import Episodes, RuntimeConfig, Seed
from machina.envs.builders import describe
from machina.envs.games.scripted import SCRIPTED, random_player
from machina.envs.games.teams import group
from machina.errors import EnvironmentFaultError, RunFailedError, UserError, nearest
from machina.hardware import torch_threads
from machina.interfaces import EnvFactory
from machina.jobs.loaded_run import load_run
from machina.launch.arguments import checked
from machina.launch.configuration import config_for_acting
from machina.launch.plan import env_factory, plan_run, seed_shared_generators
from machina.launch.self_play import snapshots_folder
from machina.league.pool import Snapshot
from machina.league.table import LeagueTable, MatchRow, read_league
from machina.play.matches import MatchResult, Player, PolicyPlayer, Progress, RulePlayer, play_match
from machina.play.timed import TimedFactory
from machina.specs import EnvSpec

BEST = "best"
"""What stands after ``RUN@`` for the best checkpoint."""


class Entrant(NamedTuple):
    """A player that is ready to play."""

    player: Player
    env_steps: int | None
    """Of the run when its parameters were made; None of a scripted player."""


class RunPlayers:
    """The players that a run offers: its checkpoints, its league's snapshots, the scripted players of its game.

    Args:
        path: run directory, as the user gave it; players are called after it.

    Raises:
        UserError: ``path`` is no run.
    """

    def __init__(self, path: Path) -> None:
        self.run = RunDirectory.open(path)
        self._plan = plan_run(config_for_acting(self.run.path))
        self.config = self._plan.config
        self.factory: EnvFactory = self._plan.factory
        self.threads = self._plan.machine.actor_threads
        """Torch threads that its policies act with."""
        self._store = snapshots_folder(self.run)

    @cached_property
    def league(self) -> LeagueTable | None:
        """What the run's league wrote last; None of a run that is no league."""
        return read_league(self.run.path)

    def entrant(self, which: str = "") -> Entrant:
        """A player by what stands after ``RUN@``; nothing is the latest checkpoint.

        Raises:
            UserError: the run has no such player; names the nearest.
        """
        text = f"{self.run.path}@{which}" if which else str(self.run.path)
        if which in ("", BEST):
            loaded = load_run(self.run.path, best=which == BEST)
            return Entrant(PolicyPlayer(f"{text} at {loaded.checkpoint.step}", loaded.policy), loaded.checkpoint.step)
        if which in (scripted := scripted_players(self.factory.spec)):
            return Entrant(scripted[which], None)
        return self._snapshot(which, text)

    def _snapshot(self, name: str, text: str) -> Entrant:
        """A snapshot of the run's league as a player called ``text``.

        Raises:
            UserError: there is none of this name, or its file is damaged.
        """
        snapshots = {} if self.league is None else {row.name: row for row in self.league.snapshots}
        if name not in snapshots:
            best = [] if self.run.best() is None else [BEST]
            known = [*best, *scripted_players(self.factory.spec), *snapshots]
            among = f"has no snapshot {name!r} among its {len(snapshots)}"
            if self.league is None:
                among = f"is not a league and has no snapshot {name!r}"
            hint = nearest(name, known) or f"; it has {', '.join(known[:8])}{', …' if len(known) > 8 else ''}"
            raise UserError(f"run '{self.run.path}' {among}{hint}")
        row = snapshots[name]
        policy = self._plan.make_policy(explores=False)
        self._store.load_into(policy, Snapshot(row.name, row.updates, row.env_steps, row.sha256))
        return Entrant(PolicyPlayer(text, policy), row.env_steps)


class PlayerName(NamedTuple):
    """What the user calls a player."""

    run: Path | None
    """None of a scripted player."""
    which: str
    """Which of the run's players, see ``RunPlayers.entrant``; the name of a scripted one."""


class Lineup(NamedTuple):
    """The players of a match, and the game they play."""

    entrants: tuple[Entrant, ...]
    factory: EnvFactory
    host: RunPlayers | None
    """The run that the first player of a run comes from; its options are those of the match."""

    def play(self, games: int, seed: int, progress: Progress | None = None) -> MatchResult:
        """Play the match; see ``play_timed``."""
        runtime = RuntimeConfig() if self.host is None else self.host.config.runtime
        players = [entrant.player for entrant in self.entrants]
        with torch_threads(1 if self.host is None else self.host.threads):
            return play_timed(self.factory, runtime.step_timeout_s, players, games, seed, progress)

    def save(self, result: MatchResult) -> Path | None:
        """Write the result into the host's report folder; None without a host.

        Raises:
            RunFailedError: the disk is full or refuses.
        """
        if self.host is None:
            return None
        names = "-vs-".join(short_name(name) for name in result.players)
        file = self.host.run.report / f"match-{names}-{len(result.games)}games-seed{result.seed}.json"
        write_or_refuse(file, result.model_dump_json(indent=1).encode(), "match")
        return file


def play_timed(
    factory: EnvFactory,
    step_timeout_s: float,
    players: Sequence[Player],
    games: int,
    seed: int,
    progress: Progress | None = None,
) -> MatchResult:
    """A fair match whose steps have a deadline; see ``machina.play.matches.play_match``.

    Raises:
        UserError: no such match.
        RunFailedError: the environment failed or hung.
    """
    seed_shared_generators(factory, seed)
    try:
        return play_match(TimedFactory(factory, step_timeout_s), players, games, seed, progress)
    except EnvironmentFaultError as fault:
        raise RunFailedError(f"match stopped: {fault}") from fault


def short_name(player: str) -> str:
    """A player's name as part of a file's name, without the folder of its run."""
    return as_file_name(Path(player).name)


def match_rows(result: MatchResult, spec: EnvSpec) -> list[MatchRow]:
    """Each player's results, in all games and by the team it played."""
    teams = [f"as {label}" for label in team_labels(spec)]
    return [
        MatchRow(label, team is not None, *result.win_rate(name, team))
        for name in result.players
        for team, label in [(None, name), *enumerate(teams)]
    ]


def team_labels(spec: EnvSpec) -> list[str]:
    """The agents of each team, in the order of the teams' numbers: ``adversary_0–2``, ``red_0–4, blue_0``."""
    labels = []
    for team in range(spec.num_teams):
        stems: dict[str, list[str]] = {}
        for seat, its_team in zip(spec.seats, spec.team_of_seat, strict=True):
            if its_team == team:
                stems.setdefault(group(seat.agent), []).append(seat.agent)
        labels.append(", ".join(_span(stem, agents) for stem, agents in stems.items()))
    return labels


def _span(stem: str, agents: list[str]) -> str:
    """Agents whose names begin alike, in short."""
    return ", ".join(agents) if len(agents) < 3 else f"{agents[0]}–{agents[-1].removeprefix(f'{stem}_')}"


def scripted_players(spec: EnvSpec) -> dict[str, RulePlayer]:
    """The scripted players of a game, by name; random play exists for every one."""
    rules = SCRIPTED.get(spec.name) or {"random": random_player(spec.action)}
    return {name: RulePlayer(name, rule) for name, rule in rules.items()}


def heuristic(spec: EnvSpec) -> str:
    """The name of the strongest scripted player: the one that plays by the game's rules, else random."""
    return list(scripted_players(spec))[-1]


def parse_player(text: str) -> PlayerName:
    """A player by its name on the command line.

    Args:
        text: ``RUN`` (latest checkpoint), ``RUN@best``, ``RUN@u000400`` (a snapshot of its league), a scripted player
            such as ``random`` or ``one_ply``, also as ``RUN@random``.

    Raises:
        UserError: it can't be any of these.
    """
    known = dict.fromkeys(name for players in SCRIPTED.values() for name in players)
    if text in known:
        return PlayerName(None, text)
    path = Path(text)
    if path.exists() or "@" not in text:
        if not path.exists() and (hint := nearest(text, known)):
            raise UserError(f"player {text!r} is neither a run nor a scripted player{hint}")
        return PlayerName(path, "")
    run, _, which = text.rpartition("@")
    if not run or not which:
        raise UserError(f"player {text!r}: name it RUN, RUN@best, RUN@SNAPSHOT, {', '.join(known)}")
    return PlayerName(Path(run), which)


def lineup(names: Sequence[PlayerName], game: str | None = None) -> Lineup:
    """Get players ready.

    Args:
        names: of the players.
        game: which one is played; None takes it from the first run among the players.

    Raises:
        UserError: a player is unknown, nothing says which game, or the players are of different games.
    """
    runs = {path: RunPlayers(path) for path in dict.fromkeys(name.run for name in names) if path is not None}
    # The first run's own options, such as its limit of steps, are those of the match.
    factories = {f"run '{path}'": each.factory for path, each in runs.items()}
    if game is not None:
        factories[f"--game {game}"] = env_factory(game, describe(game)(), RuntimeConfig().step_timeout_s)
    if not factories:
        players = ", ".join(name.which for name in names)
        raise UserError(f"players {players}: no run among them says which game; give --game")
    (first, factory), *others = factories.items()
    for other, theirs in others:
        _check_same_game(first, factory.spec, other, theirs.spec)
    entrants = [_scripted(which, factory.spec) if run is None else runs[run].entrant(which) for run, which in names]
    return Lineup(tuple(entrants), factory, next(iter(runs.values()), None))


def _not_one_name(players: Any) -> Any:
    if isinstance(players, str):
        raise ValueError(f"players={players!r}: give a list, one player per team")
    return players


@checked
def match(
    players: Annotated[Sequence[str], BeforeValidator(_not_one_name)],
    games: Episodes = 200,
    seed: Seed = 0,
    game: str | None = None,
    progress: Progress | None = None,
) -> MatchResult:
    """Play a fair match, as ``machina match`` does; nothing is written.

    Args:
        players: one per team, see ``parse_player``.
        games: in all.
        seed: seeds the environment and the players' actions.
        game: which one is played; None takes it from the first run among the players.
        progress: called with (games finished, games in all).

    Raises:
        UserError: a value of another type or out of range; see ``parse_player``, ``lineup`` and
            ``machina.play.matches.play_match``.
        RunFailedError: the environment failed or hung.
    """
    return lineup([parse_player(text) for text in players], game).play(games, seed, progress)


def _scripted(name: str, spec: EnvSpec) -> Entrant:
    players = scripted_players(spec)
    if name not in players:
        raise UserError(f"{spec.name} has no scripted player {name!r}; it has {', '.join(players)}")
    return Entrant(players[name], None)


def _check_same_game(name: str, spec: EnvSpec, other: str, theirs: EnvSpec) -> None:
    if spec.name != theirs.name:
        raise UserError(f"{name} plays {spec.name}, {other} plays {theirs.name}; a match is of one game")
    # How long a game may last differs between runs; what a player sees and does may not.
    if spec.model_copy(update={"protocol": {}}) != theirs.model_copy(update={"protocol": {}}):
        raise UserError(f"{name} and {other} play {spec.name} with other observations, actions or teams")
