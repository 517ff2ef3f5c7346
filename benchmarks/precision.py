"""How far bfloat16 gradients are from float32 ones, on batches recorded from a run's own policy.

python benchmarks/precision.py runs/NAME --batches 20
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from tyro.conf import Positional

from machina.algorithms.impala.learning import ImpalaLearner
from machina.buffers.buffer import joined
from machina.cli.options import parse
from machina.interfaces import LearnerState
from machina.jobs.loaded_run import load_run
from machina.launch.configuration import AnyRunConfig
from machina.launch.places import OneMachine
from machina.launch.plan import Parts
from machina.learner.sums import SINGLE_RANK
from machina.types import Array, Unroll


class Options(BaseModel):
    """Compare gradients."""

    run: Positional[Path] = Field(description="Run directory; its policy plays and its learner differentiates.")
    batches: int = Field(default=20, ge=1, description="Batches recorded.")


def main() -> None:
    options = parse(Options, sys.argv[1:], "benchmarks/precision.py")
    loaded = load_run(options.run)
    model, optimizer = loaded.checkpoint.tensors["model"], loaded.checkpoint.tensors["optimizer"]
    state = LearnerState({"model": model, "optimizer": optimizer}, loaded.checkpoint.values["learner"])
    learners = {}
    for precision in ("float32", "bfloat16"):
        learners[precision] = ImpalaLearner(
            loaded.config.algo, loaded.parts.factory.spec, "cpu", precision, 0, SINGLE_RANK
        )
        learners[precision].load_state(state)
    cosines = []
    for batch in record(loaded.config, loaded.parts, learners["float32"].flat_parameters(), options.batches):
        gradients = []
        for learner in learners.values():
            learner.load_state(state)
            learner.update(batch, 0.0)
            gradients.append(
                torch.cat([p.grad.reshape(-1) for p in learner.model.network.parameters() if p.grad is not None])
            )
        cosines.append(float(torch.nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)))
    print(
        f"cosine of bfloat16 and float32 gradients, {len(cosines)} batches of {loaded.parts.batch_size} unrolls: "
        f"median {statistics.median(cosines):.5f}, least {min(cosines):.5f}"
    )


def record(config: AnyRunConfig, parts: Parts, parameters: torch.Tensor, count: int) -> list[Unroll[Array]]:
    """Batches that the policy with ``parameters`` makes."""
    inline = config.runtime.model_copy(update={"place": "inline"})
    plane = OneMachine(config.model_copy(update={"runtime": inline}), parts).make_plane()
    plane.publish(0, parameters)
    plane.start({})
    try:
        batches: list[Unroll[Array]] = []
        while len(batches) < count:
            batch = plane.next_batch(timeout_s=60)
            assert batch is not None  # the place inline makes one
            batches.append(joined(batch.parts))
            batch.release()
        return batches
    finally:
        plane.close()


if __name__ == "__main__":
    main()
