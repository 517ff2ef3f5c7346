"""Opponents in the real groups of an actor: who played which slot, with whose parameters, and who learns of it.

What the actor says (`foreign`, game results, logits, core states) is held against a replay: every player's network
reads all entries of all slots in order, from a zero core state at each episode's first entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from actor_groups import as_tensors, next_batch
from torch import Tensor

from machina.actors.actor_group import InProcessActors
from machina.algorithms.actor_critic.config import ActorCriticConfig
from machina.buffers.unrolls import to_arrays
from machina.interfaces import Learner
from machina.launch.configuration import job_config
from machina.launch.places import OneMachine
from machina.launch.plan import RunPlan, plan_run
from machina.league.pool import Pool
from machina.league.snapshots import SnapshotStore
from machina.learner.sums import SINGLE_RANK
from machina.losses.alignment import aligned
from machina.nets.build import build_network
from machina.nets.config import NetworkConfig
from machina.nets.network import NetworkInput, PolicyNetwork
from machina.nets.parameters import flattened, load_flat
from machina.nets.unroll_tensors import network_input
from machina.specs import EnvSpec
from machina.types import PRESENT_SELF, Array, BoolArray, Episode, GameResult, IntArray, Unroll

POOL_SHARE = 0.6
NETWORK: dict[str, Any] = {"torso": "mlp", "hidden_sizes": (16,)}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: environment, network, env
    "connect_four": ("connect_four", {}, {"envs_per_task": 12}),
    "connect_four, lstm": ("connect_four", {"lstm_size": 6}, {"envs_per_task": 11}),
    "battle, lstm": ("battle", {"lstm_size": 6}, {"envs_per_task": 4, "max_steps": 21}),
    "roles, units, filter": ("simple_tag", {"observation_filter": True, "torso": "units"}, {"envs_per_task": 5}),
    "deaths, lstm": ("skirmish_game:parallel_env", {"lstm_size": 6, "separate_roles": True}, {"envs_per_task": 9}),
}
T = 8
ROUNDS = 36
POOL_GROWS_AT = 12


class Played(NamedTuple):
    """All rounds of one actor."""

    spec: EnvSpec
    network: NetworkConfig
    batches: list[Unroll[Array]]
    """One per round, with every slot once."""
    versions: list[Tensor]
    """The learner's parameters in each round."""
    snapshots: dict[str, Tensor]
    """Parameters by name."""
    results: list[GameResult]
    episodes: list[Episode]
    groups: list[IntArray]
    """Slots of each group."""

    def entries(self, field: str) -> Array:
        """``[N + 1, B]``: N = rounds times T answered entries, and the last."""
        arrays = [to_arrays(batch)[field] for batch in self.batches]
        return np.concatenate([*(array[:-1] for array in arrays), arrays[-1][-1:]])

    @property
    def done(self) -> BoolArray:
        ended: BoolArray = self.entries("terminated") | self.entries("truncated")
        return ended


def loud_network(spec: EnvSpec, config: NetworkConfig, seed: int) -> PolicyNetwork:
    """A network whose answers differ clearly from those of others."""
    network = build_network(spec, config, seed)
    for name, parameter in network.named_parameters():
        if name.endswith("policy_head.weight"):
            parameter.data.mul_(100)
    return network


def play(case: str, folder: Path, pool_share: float = POOL_SHARE) -> Played:
    """An actor with two groups against a pool of two snapshots, later of four, while the policy learns."""
    environment, network, env = CASES[case]
    config, _ = job_config(
        "ppo",
        environment,
        "defaults",
        algo={"unroll_length": T, "batch_size": 1, "minibatches": 1, "network": {**NETWORK, **network}},
        env=env,
        runtime={"place": "inline", "precision": "float32", "actor_threads": 1, "learner_threads": 1},
        league={"snapshot_updates": 1, "opponents_in_memory": 2},
    )
    slots = env["envs_per_task"] * plan_run(config).spec.slots_per_game
    config = config.model_copy(update={"algo": config.algo.model_copy(update={"batch_size": slots})})
    plan = plan_run(config)
    spec, own_network = plan.spec, network_config(plan)
    place, store, pool = OneMachine(plan), SnapshotStore(folder), Pool(quality_step=0.0)
    snapshots: dict[str, Tensor] = {}

    def add_snapshots(*seeds: int) -> None:
        for seed in seeds:
            flat = flattened(loud_network(spec, own_network, seed))
            pool.add(store.save(seed, 0, flat))
            snapshots[pool.snapshots[-1].name] = flat
        actors.store.set_opponents(pool.view([place.share(each, store) for each in pool.snapshots], pool_share))

    learner = make_learner(plan)
    actors = place.make_actors()
    add_snapshots(101, 102)
    batches, versions, results, episodes = [], [], [], []
    try:
        actors.store.publish(0, learner.flat_parameters(), done=0.0)
        actors.group.start({})
        for update in range(1, ROUNDS + 1):
            versions.append(learner.flat_parameters())
            batches.append(next_batch(actors, update - 1))
            results += list(actors.group.drain_games())
            episodes += list(actors.group.drain_episodes())
            learner.update(batches[-1], 0.0)
            if update == POOL_GROWS_AT:
                add_snapshots(103, 104)
            actors.store.publish(update, learner.flat_parameters(), done=0.0)
        assert isinstance(actors.group, InProcessActors)
        groups = [group.slots for group in actors.group._actors[0].groups]
    finally:
        actors.group.close()
    return Played(spec, own_network, batches, versions, snapshots, results, episodes, groups)


def network_config(plan: RunPlan) -> NetworkConfig:
    assert isinstance(plan.config.algo, ActorCriticConfig)
    return plan.config.algo.network


def make_learner(plan: RunPlan) -> Learner:
    return plan.algorithm.make_learner(plan.spec, "cpu", "float32", seed=3, ranks=SINGLE_RANK)


@pytest.fixture(scope="module", params=CASES)
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Played:
    torch.set_num_threads(1)
    return play(request.param, tmp_path_factory.mktemp("league"))


class Game(NamedTuple):
    """A game as the unrolls show it."""

    slots: IntArray
    opened: int
    ended: int
    result: GameResult

    def player_of(self, slot: int, spec: EnvSpec) -> str:
        """Who played one of the game's slots, as its result says."""
        teams = sorted({seat.team for seat in spec.seats})
        return self.result.players[teams.index(spec.seats[slot - int(self.slots[0])].team)]


def finished_games(played: Played) -> list[Game]:
    """From the flags alone, each with the result that the actor gave it: in the order of the ends, group by group."""
    done, seats = played.done, len(played.spec.seats)
    spans: list[tuple[int, int, int, int]] = []
    for group, slots in enumerate(played.groups):
        for start in range(int(slots[0]), int(slots[-1]) + 1, seats):
            ends = np.flatnonzero(done[:, start : start + seats].all(axis=1)).tolist()
            opens = [0, *(end + 1 for end in ends[:-1])]
            spans += [(group, end, start, opened) for opened, end in zip(opens, ends, strict=True)]
    # The actor hands its results over round by round, and in each group by group.
    spans.sort(key=lambda span: ((span[1] - 1) // T, *span))
    assert len(spans) == len(played.results)
    return [
        Game(np.arange(start, start + seats), opened, end, result)
        for (_, end, start, opened), result in zip(spans, played.results, strict=True)
    ]


def players(played: Played) -> list[list[str | None]]:
    """``[N][B]``: who played each answered entry; None where the game was not over in the end."""
    who: list[list[str | None]] = [[None] * played.done.shape[1] for _ in range(len(played.done) - 1)]
    for game in finished_games(played):
        for t in range(game.opened, min(game.ended + 1, len(who))):
            for slot in game.slots.tolist():
                who[t][slot] = game.player_of(slot, played.spec)
    return who


class Replay(NamedTuple):
    """What a player would have answered everywhere."""

    logits: Tensor
    """``[N, B, P]``."""
    core_states: list[tuple[Tensor, ...]]
    """Before each round, ``[B, ...]`` each."""


def replay(played: Played, parameters: Sequence[Tensor]) -> Replay:
    """Read all rounds in order, each with its parameters, from a zero core state."""
    network = build_network(played.spec, played.network, seed=0)
    num_slots = played.done.shape[1]
    state = tuple(torch.zeros(num_slots, *shape) for shape in network.core_state_shapes)
    logits, states = [], []
    for batch, flat in zip(played.batches, parameters, strict=True):
        load_flat(network, flat)
        unroll = as_tensors(batch)
        steps = aligned(unroll)
        inputs = network_input(unroll, steps.first, steps.previous_actions, played.spec)
        answered = NetworkInput(
            {key: tensor[:T] for key, tensor in inputs.observation.items()}, *(tensor[:T] for tensor in inputs[1:])
        )
        states.append(tuple(torch.where(unroll.first[:, None], 0.0, each) for each in state))
        with torch.no_grad():
            output = network(answered, state)
        logits.append(output.logits)
        state = output.core_state
    return Replay(torch.cat(logits), states)


def test_foreign_slots_are_those_that_the_results_name_from_reset_to_end(played: Played) -> None:
    foreign, done = played.entries("foreign")[:-1], played.done
    games = finished_games(played)
    assert len(games) > 20
    for game in games:
        last = min(game.ended + 1, len(foreign))
        for slot in game.slots.tolist():
            expected = game.player_of(slot, played.spec) != PRESENT_SELF
            assert (foreign[game.opened : last, slot] == expected).all()
        assert game.result.length == game.ended - game.opened
    # Games that are not over have no result, but their players stay too.
    seats = len(played.spec.seats)
    game_over = done.reshape(len(done), -1, seats).all(axis=2).repeat(seats, axis=1)
    changes = foreign[1:] != foreign[:-1]
    assert not (changes & ~game_over[: len(foreign) - 1]).any()
    assert changes.any()


def test_scores_are_the_teams_mean_above_par(played: Played) -> None:
    score = played.entries("reward").astype(np.float64)
    if played.spec.name == "battle":
        assert not played.entries("terminated").any()
        score[:] = 0  # nobody dies, nobody has won
    teams = sorted({seat.team for seat in played.spec.seats})
    for game in finished_games(played):
        summed = score[game.opened + 1 : game.ended + 1, game.slots].sum(axis=0)
        above = summed - [seat.par for seat in played.spec.seats]
        scores = [above[[seat.team == team for seat in played.spec.seats]].mean() for team in teams]
        assert game.result.scores == pytest.approx(scores, abs=1e-5)


def own_episodes(played: Played) -> list[Episode]:
    """Those of the present self, from the unrolls alone."""
    done, foreign, reward = played.done, played.entries("foreign"), played.entries("reward").astype(np.float64)
    found = []
    for slot, task in enumerate(played.batches[0].task_id.tolist()):
        opened = 0
        for end in np.flatnonzero(done[:, slot]).tolist():
            # Who acted on the entry before has played it; an end right after an end is a repeated one.
            if end > opened and not foreign[end - 1, slot]:
                found.append(Episode(task, float(reward[opened + 1 : end + 1, slot].sum()), end - opened))
            opened = end + 1
    return found


def assert_own_episodes_are_reported(played: Played) -> None:
    expected, told = sorted(own_episodes(played)), sorted(played.episodes)
    assert len(expected) > 20
    assert [(each.task_id, each.length) for each in told] == [(each.task_id, each.length) for each in expected]
    assert [each.episode_return for each in told] == pytest.approx([each.episode_return for each in expected])


def test_episodes_are_those_that_the_policy_played(played: Played) -> None:
    assert_own_episodes_are_reported(played)


@pytest.mark.parametrize("case", ["connect_four", "deaths, lstm"])
def test_of_games_that_are_all_against_the_pool_one_side_is_counted(case: str, tmp_path: Path) -> None:
    played = play(case, tmp_path, pool_share=1.0)
    assert all(game.players.count(PRESENT_SELF) == 1 for game in played.results)
    assert_own_episodes_are_reported(played)
    if case == "connect_four":  # where both sides end at once
        assert len(played.episodes) == len(played.results)


def test_logits_and_core_states_are_those_of_who_played(played: Played) -> None:
    replays = {name: replay(played, [flat] * ROUNDS) for name, flat in played.snapshots.items()}
    replays[PRESENT_SELF] = replay(played, played.versions)
    who = players(played)
    names = np.array([[PRESENT_SELF if name is None else name for name in row] for row in who])
    known = np.array([[name is not None for name in row] for row in who])
    stored = torch.from_numpy(played.entries("policy_outputs/behaviour_logits")[:-1])
    on_turn = torch.from_numpy(played.entries("on_turn")[:-1])
    for name, expected in replays.items():
        mine = torch.from_numpy(known & (names == name))
        assert mine.sum() > 50, f"{name!r} played"
        torch.testing.assert_close(stored[mine], expected.logits[mine], rtol=1e-4, atol=1e-4)
        for other, answers in replays.items():
            if other != name:
                told = mine & on_turn  # who waits is forbidden every action, whoever it is
                apart = (stored[told] - answers.logits[told]).abs().amax(dim=1)
                assert (apart > 1e-3).float().mean() > 0.9, "players can be distinguished"
        for number, (batch, states) in enumerate(zip(played.batches, expected.core_states, strict=True)):
            rows = mine[number * T]
            for array, state in zip(batch.core_state, states, strict=True):
                torch.testing.assert_close(torch.from_numpy(array)[rows], state[rows], rtol=1e-4, atol=1e-5)


def test_both_sides_and_every_snapshot_are_played_and_the_pool_gets_its_share(played: Played) -> None:
    games = [game.result for game in finished_games(played)]
    against = [game for game in games if set(game.players) != {PRESENT_SELF}]
    assert abs(len(against) / len(games) - POOL_SHARE) < 4 * (POOL_SHARE * (1 - POOL_SHARE) / len(games)) ** 0.5
    first_side = sum(game.players[0] == PRESENT_SELF for game in against) / len(against)
    assert abs(first_side - 0.5) < 4 * (0.25 / len(against)) ** 0.5
    assert 0 < first_side < 1
    assert {name for game in against for name in game.players} == {PRESENT_SELF, *played.snapshots}


def belongs_to_others(batch: Unroll[Array]) -> BoolArray:
    """``[T + 1, B]``: entries of games in which another player has the slot."""
    done = batch.terminated | batch.truncated
    last = batch.foreign[-2] & ~done[-2]
    belongs: BoolArray = np.concatenate([batch.foreign[:-1], last[None]])
    return belongs


def scrambled(batch: Unroll[Array], entries: BoolArray) -> Unroll[Array]:
    """The batch with nonsense in some entries, everywhere but in the flags."""
    rng = np.random.default_rng(0)

    def nonsense(array: Array, where: BoolArray) -> Array:
        changed = array.copy()
        if np.issubdtype(array.dtype, np.floating):
            noise = rng.normal(3, 10, array.shape).astype(array.dtype)
        else:
            noise = rng.integers(0, 2, array.shape).astype(array.dtype)
        changed[where] = noise[where]
        return changed

    fields = ("reward", "team_reward", "enemy_reward", "action")
    return batch._replace(
        observation={key: nonsense(array, entries) for key, array in batch.observation.items()},
        policy_outputs={key: nonsense(array, entries) for key, array in batch.policy_outputs.items()},
        core_state=tuple(nonsense(array, entries[0]) for array in batch.core_state),
        previous_action=nonsense(batch.previous_action, entries[0]),
        **{field: nonsense(getattr(batch, field), entries) for field in fields},
    )


def learned(played: Played, batch: Unroll[Array], **options: Any) -> dict[str, Tensor]:
    """Everything a learner is left with after one update."""
    config, _ = job_config(
        "ppo",
        played.spec.name,
        "defaults",
        algo={
            "unroll_length": T,
            "batch_size": len(batch.slot),
            "learning_rate": 1e-2,
            "popart": True,
            "team_spirit": 0.3,
            "zero_sum": True,
            "network": played.network.model_dump() | options,
        },
    )
    learner = make_learner(plan_run(config))
    assert not learner.update(batch, 0.0).skipped
    return {f"{part}/{name}": tensor for part, of in learner.state().tensors.items() for name, tensor in of.items()}


def test_nothing_is_learned_from_foreign_slots(played: Played) -> None:
    batch = max(played.batches, key=lambda each: int((each.foreign[1:-1] != each.foreign[:-2]).sum()))
    others = belongs_to_others(batch)
    assert others.any()
    assert not others.all()
    plain = learned(played, batch)
    for name, tensor in learned(played, scrambled(batch, others)).items():
        assert torch.equal(tensor, plain[name]), name
    with_own = learned(played, batch._replace(reward=np.where(others, batch.reward, batch.reward + 1)))
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in with_own.items())


def test_a_batch_that_others_played_changes_nothing(played: Played) -> None:
    batch = played.batches[0]
    theirs = batch._replace(foreign=np.ones_like(batch.foreign))
    once, again = learned(played, theirs), learned(played, scrambled(theirs, theirs.foreign))
    own = learned(played, batch)
    before = first_parameters(played)
    for name, tensor in before.items():
        assert torch.equal(once[f"model/{name}"], tensor), name
        assert torch.equal(again[f"model/{name}"], tensor), name
    assert any(not torch.equal(own[f"model/{name}"], tensor) for name, tensor in before.items())


def first_parameters(played: Played) -> dict[str, Tensor]:
    """The parameters with which ``make_learner`` starts."""
    network = build_network(played.spec, played.network, seed=3)
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def test_the_ends_are_of_all_kinds(played: Played) -> None:
    seats = len(played.spec.seats)
    done = played.done.reshape(len(played.done), -1, seats)
    died_early = bool((done.any(axis=2) & ~done.all(axis=2)).any())
    ends = (bool(played.entries("terminated").any()), bool(played.entries("truncated").any()), died_early)
    expected = {
        "connect_four": (True, False, False),
        "battle": (False, True, False),
        "simple_tag": (False, True, False),
    }
    assert ends == expected.get(played.spec.name, (True, True, True))
