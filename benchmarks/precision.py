"""How far bfloat16 gradients are from float32 ones, on batches recorded from a run's own policy.

python benchmarks/precision.py runs/NAME --batches 20
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from refusals import refusing
from tyro.conf import Positional

from machina.algorithms.impala.config import ImpalaConfig
from machina.algorithms.impala.learning import ImpalaLearner
from machina.buffers.buffer import joined
from machina.cli.options import parse
from machina.interfaces import LearnerState
from machina.jobs.loaded_run import load_run
from machina.launch.places import OneMachine
from machina.launch.plan import RunPlan
from machina.learner.sums import SINGLE_RANK
from machina.types import Array, Learned, Unroll


class Options(BaseModel):
    """Compare gradients."""

    run: Positional[Path] = Field(description="Run directory; its policy plays and its learner differentiates.")
    batches: int = Field(default=20, ge=1, description="Batches recorded.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/precision.py")
    loaded = load_run(options.run)
    model, optimizer = loaded.checkpoint.tensors["model"], loaded.checkpoint.tensors["optimizer"]
    state = LearnerState({"model": model, "optimizer": optimizer}, loaded.checkpoint.values["learner"])
    algo, learners = loaded.plan.config.algo, {}
    if not isinstance(algo, ImpalaConfig):
        sys.exit(f"run '{options.run}' is of {loaded.plan.config.algorithm}; give one of impala")
    for precision in ("float32", "bfloat16"):
        learners[precision] = ImpalaLearner(algo, loaded.plan.spec, "cpu", precision, 0, SINGLE_RANK)
        learners[precision].load_state(state)
    cosines = []
    for batch in record(loaded.plan, learners["float32"].flat_parameters(), options.batches):
        gradients = []
        for learner in learners.values():
            learner.load_state(state)
            learner.update(batch, 0.0)
            gradients.append(
                torch.cat([p.grad.reshape(-1) for p in learner.model.network.parameters() if p.grad is not None])
            )
        cosines.append(float(torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)))
    print(
        f"cosine of bfloat16 and float32 gradients, {len(cosines)} batches of {loaded.plan.batch_size} unrolls: "
        f"median {statistics.median(cosines):.5f}, least {min(cosines):.5f}"
    )


def record(plan: RunPlan, parameters: torch.Tensor, count: int) -> list[Unroll[Array]]:
    """Batches that the policy with ``parameters`` makes."""
    inline = plan.config.runtime.model_copy(update={"place": "inline"})
    actors = OneMachine(plan._replace(config=plan.config.model_copy(update={"runtime": inline}))).make_actors()
    actors.store.publish(0, parameters, done=0.0)
    actors.group.start({})
    try:
        batches: list[Unroll[Array]] = []
        while len(batches) < count:
            batch = actors.group.next_batch(updates=0, timeout_s=60)
            assert batch is not None  # the place inline makes one
            batches.append(joined(batch.parts))
            batch.release()
            actors.buffer.settle(batch, Learned({}))
        return batches
    finally:
        actors.group.close()


if __name__ == "__main__":
    refusing(main)
