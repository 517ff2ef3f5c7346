"""What is shown of a PPO update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from machina.learner.base_learner import explained_variance


class BatchSums(NamedTuple):
    """Sums over the whole batch, by which it is normalized and shown."""

    acted: float
    counted: float
    advantages: float
    squared_advantages: float
    targets: float
    squared_targets: float
    errors: float
    squared_errors: float


class StepSums(NamedTuple):
    """Sums over one minibatch, and the norm of its gradient."""

    policy_loss: float
    value_loss: float
    entropy: float
    kl: float
    clipped: float
    grad_norm: float


def batch_metrics(sums: BatchSums) -> dict[str, float]:
    """What is known of a batch before it is learned."""
    steps = max(sums.counted, 1.0)
    targets, errors = (sums.targets, sums.squared_targets), (sums.errors, sums.squared_errors)
    return {"learner/explained_variance": explained_variance(targets, errors, steps)}


def kl_of_last_epoch(done: Sequence[StepSums], counts: Sequence[Sequence[float]], minibatches: int) -> float:
    """Mean KL divergence, over the env steps of the last epoch; arguments as for ``step_metrics``."""
    total = sum(each.kl for each in done[-minibatches:])
    return total / max(1.0, sum(steps for steps, _ in counts[-minibatches:]))


def step_metrics(
    done: Sequence[StepSums], counts: Sequence[Sequence[float]], minibatches: int, value_cost: float
) -> dict[str, float]:
    """Means over the env steps of all minibatches; the KL divergence is that of the last epoch.

    Args:
        done: one per optimizer step.
        counts: steps whose policy and whose value were learned, of each.
        minibatches: per epoch.
        value_cost: weight of the value loss.
    """
    acted, counted = (max(1.0, sum(column)) for column in zip(*counts, strict=True))
    return {
        "learner/policy_loss": sum(each.policy_loss for each in done) / acted,
        "learner/baseline_loss": value_cost * sum(each.value_loss for each in done) / counted,
        "learner/entropy": sum(each.entropy for each in done) / acted,
        "learner/kl": kl_of_last_epoch(done, counts, minibatches),
        "learner/clipped_share": sum(each.clipped for each in done) / acted,
        "learner/grad_norm": sum(each.grad_norm for each in done) / len(done),
        "learner/epochs": len(done) / minibatches,
    }
