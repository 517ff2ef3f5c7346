"""The filter against one pass over all data, however the data are cut."""

from __future__ import annotations

import itertools

import pytest
import torch
from network_cases import random_inputs, spec_of, with_mask
from torch import Tensor

from machina.algorithms.ppo.config import PPOConfig
from machina.algorithms.ppo.learning import PPOLearner
from machina.errors import UserError
from machina.learner.filter_statistics import EPSILON, FilterStatistics
from machina.learner.sums import SINGLE_RANK
from machina.nets.build import NETWORKS, build_network, register_network
from machina.nets.config import NetworkConfig
from machina.nets.network import ActorCritic, PolicyNetwork
from machina.nets.observation_filter import ObservationFilter
from machina.nets.parameters import flattened, load_flat
from machina.specs import ArraySpec, EnvSpec

CPU = torch.device("cpu")
SPEC = spec_of(
    {
        "units": ArraySpec(shape=(7, 3), dtype="float32"),
        "units_mask": ArraySpec(shape=(7,), dtype="bool"),
        "own": ArraySpec(shape=(2, 2), dtype="float32"),
        "dotted.name": ArraySpec(shape=(), dtype="float32"),
        "picture": ArraySpec(shape=(4, 4), dtype="uint8"),
        "count": ArraySpec(shape=(1,), dtype="int64"),
    }
)
N = 1000
FILTERED = NetworkConfig(observation_filter=True, hidden_sizes=(8,))


def make_data(seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """N entries whose elements differ in place and scale by orders of magnitude; one of them never changes."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(N, 2, 2, generator=generator) * torch.tensor([[1e-3, 1.0], [50.0, 1e4]])
    own = own + torch.tensor([[0.1, -3.0], [1e3, 0.0]])
    return {
        "units": torch.randn(N, 7, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.0]) + 5,
        "units_mask": torch.rand(N, 7, generator=generator) < 0.4,
        "own": own,
        "dotted.name": torch.rand(N, generator=generator),
        "picture": torch.randint(0, 255, (N, 4, 4), generator=generator).byte(),
        "count": torch.randint(0, 9, (N, 1), generator=generator),
    }, torch.rand(N, generator=generator) < 0.8


def one_pass(observation: dict[str, Tensor], mask: Tensor) -> dict[str, tuple[int, Tensor, Tensor]]:
    """Count, mean and squared distances of the counted rows, by definition."""
    rows = {
        "units": observation["units"][mask][observation["units_mask"][mask]],
        "own": observation["own"][mask],
        "dotted.name": observation["dotted.name"][mask],
    }
    answer = {}
    for key, array in rows.items():
        exact = array.double()
        answer[key] = (len(exact), exact.mean(dim=0), (exact - exact.mean(dim=0)).square().sum(dim=0))
    return answer


def part(observation: dict[str, Tensor], rows: slice) -> dict[str, Tensor]:
    return {key: array[rows] for key, array in observation.items()}


def assert_equals_one_pass(statistics: FilterStatistics, observation: dict[str, Tensor], mask: Tensor) -> None:
    state = statistics.state()
    expected = one_pass(observation, mask)
    assert set(state) == {f"{kind}.{key}" for kind in ("count", "mean", "squares") for key in expected}
    for key, (count, mean, squares) in expected.items():
        assert state[f"count.{key}"].item() == count
        torch.testing.assert_close(state[f"mean.{key}"], mean, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(state[f"squares.{key}"], squares, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("updates", [1, 2, 7, 50])
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("restarts", [0, 4])
def test_chunks_ranks_and_restarts_equal_one_pass_over_all_data(updates: int, ranks: int, restarts: int) -> None:
    """Every update is cut into the ranks' parts, and those into chunks; a restart goes through a saved state."""
    observation, mask = make_data()
    statistics = FilterStatistics(SPEC, CPU)
    borders = torch.linspace(0, N, updates + 1).long().tolist()
    restart_after = set(torch.linspace(0, updates - 1, restarts).long().tolist())
    for index, (start, end) in enumerate(itertools.pairwise(borders)):
        total = torch.zeros(statistics.num_sums, dtype=torch.float64)
        for rank in range(ranks):
            for chunk in (slice(start + rank, end, 2 * ranks), slice(start + rank + ranks, end, 2 * ranks)):
                total += statistics.sums(part(observation, chunk), mask[chunk])
        statistics.update(total)
        if index in restart_after:
            saved = statistics.state()
            statistics = FilterStatistics(SPEC, CPU)
            statistics.load_state(saved)
    assert_equals_one_pass(statistics, observation, mask)


def test_counts_are_those_of_the_steps_each_once() -> None:
    """Linear in steps: the same data again doubles counts and squares and moves no mean."""
    observation, mask = make_data()
    statistics = FilterStatistics(SPEC, CPU)
    for times in (1, 2, 3):
        statistics.update(statistics.sums(observation, mask))
        state = statistics.state()
        for key, (count, mean, squares) in one_pass(observation, mask).items():
            assert state[f"count.{key}"].item() == times * count
            torch.testing.assert_close(state[f"mean.{key}"], mean, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(state[f"squares.{key}"], times * squares, rtol=1e-9, atol=1e-9)


def test_numbers_far_from_zero_keep_their_deviation() -> None:
    """10,000 deviations away from 0, where plain sums of squares would be off by 1e-7."""
    spec = spec_of({"observation": ArraySpec(shape=(1,), dtype="float32")})
    statistics = FilterStatistics(spec, CPU)
    numbers = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0)) + 1e4
    everything = torch.ones(10, dtype=torch.bool)
    for start in range(0, 4000, 10):
        statistics.update(statistics.sums({"observation": numbers[start : start + 10]}, everything))
    state = statistics.state()
    exact = numbers.double()
    torch.testing.assert_close(state["mean.observation"], exact.mean(dim=0), rtol=1e-14, atol=0)
    squares = (exact - exact.mean()).square().sum(dim=0)
    torch.testing.assert_close(state["squares.observation"], squares, rtol=1e-9, atol=0)


def test_masked_entries_and_absent_units_never_count_even_when_they_are_no_numbers() -> None:
    observation, mask = make_data()
    observation["own"][~mask] = torch.nan
    observation["units"][~mask] = torch.inf
    observation["units"][~observation["units_mask"]] = torch.nan
    statistics = FilterStatistics(SPEC, CPU)
    statistics.update(statistics.sums(observation, mask))
    assert_equals_one_pass(statistics, observation, mask)


def test_an_update_without_a_counted_entry_changes_nothing() -> None:
    observation, mask = make_data()
    statistics = FilterStatistics(SPEC, CPU)
    nothing = torch.zeros_like(mask)
    statistics.update(statistics.sums(observation, nothing))
    assert all(not tensor.any() for tensor in statistics.state().values())
    statistics.update(statistics.sums(observation, mask))
    before = statistics.state()
    statistics.update(statistics.sums(observation, nothing))
    for key, tensor in statistics.state().items():
        assert torch.equal(tensor, before[key])


def test_units_without_a_mask_all_count() -> None:
    spec = spec_of({"units": ArraySpec(shape=(7, 3), dtype="float32")})
    observation, mask = make_data()
    statistics = FilterStatistics(spec, CPU)
    statistics.update(statistics.sums({"units": observation["units"]}, mask))
    rows = observation["units"][mask].reshape(-1, 3).double()
    assert statistics.state()["count.units"].item() == len(rows) == 7 * mask.sum()
    torch.testing.assert_close(statistics.state()["mean.units"], rows.mean(dim=0), rtol=1e-9, atol=0)


def filters_of(network: PolicyNetwork) -> list[ObservationFilter]:
    return [module for module in network.modules() if isinstance(module, ObservationFilter)]


def test_filtered_data_have_mean_0_and_deviation_1_within_the_bound() -> None:
    observation, mask = make_data()
    statistics = FilterStatistics(SPEC, CPU)
    network = build_network(SPEC, FILTERED, seed=0)
    (module,) = filters_of(network)
    statistics.write(network)
    unchanged = module({"own": torch.tensor([[[[2.0, -9.0], [5.0, 0.0]]]]), **_rest(observation)})
    assert unchanged["own"].tolist() == [[[[2.0, -5.0], [5.0, 0.0]]]]
    statistics.update(statistics.sums(observation, mask))
    statistics.write(network)
    filtered = module({key: array.unsqueeze(0) for key, array in observation.items()})
    own = filtered["own"][0][mask]
    # Numbers cut at 5 deviations hardly occur among normal ones; float32 leaves 1e-4 of the mean.
    torch.testing.assert_close(own.mean(dim=0), torch.zeros(2, 2), rtol=0, atol=1e-3)
    variance = statistics.state()["squares.own"] / mask.sum()
    torch.testing.assert_close(
        own.var(dim=0, correction=0), (variance / (variance + EPSILON)).float(), rtol=1e-3, atol=0
    )
    assert filtered["own"].abs().max() <= 5
    units = filtered["units"][0][mask][observation["units_mask"][mask]]
    torch.testing.assert_close(units.std(dim=0, correction=0), torch.tensor([1.0, 1.0, 0.0]), rtol=1e-3, atol=0)
    for key in ("units_mask", "picture", "count"):
        assert torch.equal(filtered[key][0], observation[key])


def _rest(observation: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: array[None, :1] for key, array in observation.items() if key != "own"}


def test_the_filter_is_published_and_not_trained() -> None:
    spec = with_mask(spec_of({"observation": ArraySpec(shape=(3,), dtype="float32")}))
    learner, actor = (build_network(spec, FILTERED, seed=seed) for seed in (0, 1))
    statistics = FilterStatistics(spec, CPU)
    inputs = random_inputs(spec, 4, 5)
    inputs.observation["observation"].mul_(30).add_(7)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.1)
    torch.autograd.backward(learner(inputs, ()).values.sum())
    optimizer.step()
    plain = learner(inputs, ()).logits
    flat = {key: array.flatten(0, 1) for key, array in inputs.observation.items()}
    statistics.update(statistics.sums(flat, torch.ones(20, dtype=torch.bool)))
    assert all(not module.mean[0].any() for module in filters_of(learner))
    statistics.write(learner)
    assert not torch.allclose(learner(inputs, ()).logits, plain)
    actor.cast_torso(torch.bfloat16)
    load_flat(actor, flattened(learner))
    (module,) = filters_of(actor)
    assert module.mean[0].dtype == torch.float32
    torch.testing.assert_close(module.mean[0].double(), statistics.state()["mean.observation"], rtol=1e-6, atol=0)
    actor.to(torch.float32)
    torch.testing.assert_close(actor(inputs, ()).logits, learner(inputs, ()).logits, rtol=0.05, atol=0.01)


def test_the_network_answers_as_one_without_a_filter_on_filtered_observations() -> None:
    spec = spec_of({"observation": ArraySpec(shape=(3,), dtype="float32")})
    filtered, plain = (build_network(spec, config, seed=3) for config in (FILTERED, NetworkConfig(hidden_sizes=(8,))))
    inputs = random_inputs(spec, 4, 5)
    statistics = FilterStatistics(spec, CPU)
    rows = inputs.observation["observation"].flatten(0, 1)
    statistics.update(statistics.sums({"observation": rows}, torch.ones(20, dtype=torch.bool)))
    statistics.write(filtered)
    scaled = (rows - rows.mean(dim=0)) / (rows.var(dim=0, correction=0) + EPSILON).sqrt()
    by_hand = inputs._replace(observation={"observation": scaled.clamp(-5, 5).reshape(4, 5, 3)})
    torch.testing.assert_close(filtered(inputs, ()).logits, plain(by_hand, ()).logits, rtol=1e-5, atol=1e-6)


def test_every_role_gets_the_same_filter() -> None:
    observation, mask = make_data()
    network = build_network(SPEC, NetworkConfig(observation_filter=True, separate_roles=True), seed=0)
    statistics = FilterStatistics(SPEC, CPU)
    statistics.update(statistics.sums(observation, mask))
    statistics.write(network)
    one, other = filters_of(network)
    for got, expected in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(got, expected)
        assert got.any()


def test_what_can_not_be_filtered_is_refused() -> None:
    def refuse(spec: EnvSpec, message: str) -> None:
        with pytest.raises(UserError, match=message):
            build_network(spec, FILTERED, seed=0)

    refuse(spec_of({"observation": ArraySpec(shape=(8, 8), dtype="uint8")}), "needs an array of floats.*leave it off")
    build_network(SPEC, NetworkConfig(), seed=0)
    assert isinstance(build_network(SPEC, FILTERED, seed=0), ActorCritic)


def test_a_network_that_would_not_use_it_is_refused() -> None:
    register_network("plain", lambda spec, _: ActorCritic(spec, NetworkConfig(hidden_sizes=(8,))))
    try:
        config = PPOConfig(network=FILTERED.model_copy(update={"network_name": "plain"}))
        with pytest.raises(UserError, match="observation_filter: network 'plain' holds no ObservationFilter"):
            PPOLearner(config, SPEC, "cpu", "float32", 0, SINGLE_RANK)
    finally:
        del NETWORKS["plain"]


def test_another_runs_state_is_refused_in_one_line() -> None:
    statistics = FilterStatistics(SPEC, CPU)
    with pytest.raises(UserError, match=r"needs count of 'units' of shape \(\), got none; .*observation_filter"):
        statistics.load_state({})
    other = FilterStatistics(spec_of({**SPEC.observation, "own": ArraySpec(shape=(4,), dtype="float32")}), CPU)
    with pytest.raises(UserError, match=r"mean of 'own' of shape \(2, 2\), got shape \(4,\)"):
        statistics.load_state(other.state())
