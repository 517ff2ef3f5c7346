import numpy as np
import pytest
import torch

from machina.algorithms.impala.builder import build
from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.errors import UserError
from machina.learner.sums import SINGLE_RANK
from machina.nets.config import NetworkConfig
from machina.nets.policy import SampledPolicy
from machina.specs import ArraySpec, EnvSpec
from machina.types import BEHAVIOUR_LOGITS, NO_ACTION, ActorInput, ActorOutput, CoreState, IntArray

RECURRENT = ImpalaConfig(network=NetworkConfig(lstm_size=8, hidden_sizes=(16,)))


def policy_with_weights(config: ImpalaConfig, spec: EnvSpec, precision: str = "float32") -> SampledPolicy:
    algorithm = build(config)
    policy = algorithm.make_policy(spec, "cpu", precision, explores=True, num_slots=8)
    policy.load_parameters(
        algorithm.make_learner(spec, "cpu", precision, seed=3, ranks=SINGLE_RANK).flat_parameters(), done=0.0
    )
    return policy


def act(policy: SampledPolicy, spec: EnvSpec, previous_action: IntArray, core_state: CoreState) -> ActorOutput:
    slots = len(previous_action)
    random = np.random.default_rng(0)
    array = spec.observation["observation"]
    return policy.act(
        ActorInput(
            {"observation": random.integers(0, 255, (slots, *array.shape)).astype(array.dtype)},
            random.normal(size=slots).astype(np.float32),
            previous_action,
            previous_action == NO_ACTION,
            np.zeros(slots, np.int64),
            core_state,
            random.random(slots, dtype=np.float32),
            np.arange(slots),
        )
    )


@pytest.mark.parametrize("fixture", ["vector_spec", "image_spec"])
def test_the_answer_has_the_contracts_shapes_and_types(fixture: str, request: pytest.FixtureRequest) -> None:
    spec = request.getfixturevalue(fixture)
    policy = policy_with_weights(RECURRENT, spec)
    output = act(policy, spec, np.array([0, NO_ACTION, 2]), policy.initial_core_state(3))
    assert output.action.shape == (3,)
    assert output.action.dtype == np.int64
    assert output.policy_outputs[BEHAVIOUR_LOGITS].shape == (3, spec.action.num_parameters)
    assert output.policy_outputs[BEHAVIOUR_LOGITS].dtype == np.float32
    assert [state.shape for state in output.core_state] == [(3, 8), (3, 8)]
    (outputs,) = build(RECURRENT).policy_outputs(spec).items()
    assert outputs == (BEHAVIOUR_LOGITS, ArraySpec(shape=(spec.action.num_parameters,), dtype="float32"))


def test_an_episode_start_forgets_the_core_state(vector_spec: EnvSpec) -> None:
    policy = policy_with_weights(RECURRENT, vector_spec)
    stale = tuple(np.ones_like(state) for state in policy.initial_core_state(2))
    previous = np.array([NO_ACTION, 1])
    kept = act(policy, vector_spec, previous, stale).policy_outputs[BEHAVIOUR_LOGITS]
    fresh = act(policy, vector_spec, previous, policy.initial_core_state(2)).policy_outputs[BEHAVIOUR_LOGITS]
    assert np.array_equal(kept[0], fresh[0])
    assert not np.array_equal(kept[1], fresh[1])


def test_parameters_travel_as_a_flat_vector_and_as_named_tensors(image_spec: EnvSpec) -> None:
    config = ImpalaConfig()
    algorithm = build(config)
    learner = ImpalaLearner(config, image_spec, "cpu", "float32", seed=3, ranks=SINGLE_RANK)
    by_vector, by_name = (
        algorithm.make_policy(image_spec, "cpu", "float32", explores=True, num_slots=8) for _ in range(2)
    )
    before = act(by_vector, image_spec, np.array([0, 1]), ()).policy_outputs[BEHAVIOUR_LOGITS]
    by_vector.load_parameters(learner.flat_parameters(), done=0.0)
    by_name.load_tensors(learner.state().tensors["model"])
    after = act(by_vector, image_spec, np.array([0, 1]), ()).policy_outputs[BEHAVIOUR_LOGITS]
    assert not np.array_equal(before, after)
    assert np.array_equal(after, act(by_name, image_spec, np.array([0, 1]), ()).policy_outputs[BEHAVIOUR_LOGITS])
    for name, parameter in learner.model.network.named_parameters():
        assert torch.equal(parameter, by_vector.network.get_parameter(name)), name


def test_a_vector_or_checkpoint_of_another_network_is_refused(vector_spec: EnvSpec) -> None:
    policy = policy_with_weights(ImpalaConfig(), vector_spec)
    other = ImpalaLearner(
        ImpalaConfig(network=NetworkConfig(hidden_sizes=(7,))),
        vector_spec,
        "cpu",
        "float32",
        seed=0,
        ranks=SINGLE_RANK,
    )
    with pytest.raises(ValueError, match="parameters have shape"):
        policy.load_parameters(other.flat_parameters(), done=0.0)
    with pytest.raises(UserError, match="has shape"):
        policy.load_tensors(other.state().tensors["model"])
    with pytest.raises(UserError, match="missing"):
        policy.load_tensors({})


def test_bfloat16_acting_is_close_to_float32(image_spec: EnvSpec) -> None:
    logits = {
        precision: act(
            policy_with_weights(ImpalaConfig(), image_spec, precision), image_spec, np.array([0, 1]), ()
        ).policy_outputs[BEHAVIOUR_LOGITS]
        for precision in ("float32", "bfloat16")
    }
    assert logits["bfloat16"].dtype == np.float32
    assert not np.array_equal(logits["bfloat16"], logits["float32"])
    np.testing.assert_allclose(logits["bfloat16"], logits["float32"], atol=0.02)
