"""What an algorithm needs to know of an environment, and nothing more."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from machina.types import OBSERVATION


class ArraySpec(BaseModel):
    """Shape and numpy dtype of one array, without time and batch axes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shape: tuple[int, ...]
    dtype: str


class EnvSpec(BaseModel):
    """The contract between an environment and the networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What the user typed.")
    tasks: tuple[str, ...] = Field(description="Task names; `task_id` is the index.")
    observation: dict[str, ArraySpec] = Field(description="Observation arrays by key.")
    num_actions: int = Field(ge=1, description="Number of discrete actions of the policy.")
    frame_stack: int = Field(
        default=1,
        ge=1,
        description="With more than 1, the array `observation` is a stack [frame_stack, H, W], newest frame last, "
        "that shifts by one frame per step and is zero before the episode's first frame.",
    )
    frames_per_step: int = Field(default=1, ge=1, description="Environment frames per env step (action repeats).")
    protocol: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="How episodes are run; stored with every score."
    )

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @property
    def stores_frames_once(self) -> bool:
        return self.frame_stack > 1

    @property
    def stored_observation(self) -> dict[str, ArraySpec]:
        """The arrays an unroll stores per step: a stack loses its leading axis, the rest stays."""
        if not self.stores_frames_once:
            return self.observation
        stack = self.observation[OBSERVATION]
        return {**self.observation, OBSERVATION: ArraySpec(shape=stack.shape[1:], dtype=stack.dtype)}
