"""Adapter from gymnasium's vector environments to the slots that actors step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from machina.actions import checked_actions, native_actions, without_choice
from machina.envs.declared import as_declared
from machina.envs.observations import flat_observation
from machina.envs.pictures import as_picture, remedy_for_opengl, stated_fps
from machina.envs.workers import WorkerEnvs, end_workers
from machina.errors import RAISED, EnvironmentFaultError, UserError, environment_fault, in_one_line
from machina.specs import ActionSpec, EnvSpec
from machina.types import (
    ACTION_MASK,
    Array,
    BoolArray,
    IntArray,
    StepResult,
    copies,
    section,
    single_agent_step,
)

AnyVectorEnv = VectorEnv[Any, Any, Any]


class GymnasiumSlots:
    """A gymnasium vector environment as ``machina.interfaces.SlotEnv``.

    Everything that it returns is checked: shapes equal to the spec's, rewards and floating-point observations finite.
    What the unwrapped environment offers beyond gymnasium's interface (``waiting_for``, ``recover``,
    ``get_state``, ``set_state``, ``close_at_once``) is passed on; a user's wrapper may hold state of its
    own, so ``recover`` and ``get_state`` return None behind one.

    Args:
        env: steps the slots.
        spec: read off ``env``.
        task_ids: ``[B]``, one for each slot.
        life_losses: whether infos report lives, and a lost one ends the return.
        info_mask: what is done with an action mask in the infos; None refuses it as "refuse" does, where there is no
            such option.

    Raises:
        UserError: autoreset mode, action space or observation space that can't be trained on.
    """

    def __init__(
        self,
        env: AnyVectorEnv,
        spec: EnvSpec,
        task_ids: Sequence[int],
        *,
        life_losses: bool = False,
        info_mask: Literal["refuse", "use", "ignore"] | None = None,
    ) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != AutoresetMode.NEXT_STEP:
            raise UserError(
                f"environment {spec.name!r}: autoreset mode is {mode}, it must be AutoresetMode.NEXT_STEP; "
                "build the vector environment with autoreset_mode=NEXT_STEP and say so in its metadata"
            )
        if not self._takes(spec.action, env.single_action_space):
            raise UserError(f"environment {spec.name!r}: {env.single_action_space} but the policy has {spec.action}")
        if env.num_envs != len(task_ids):
            raise UserError(
                f"environment {spec.name!r}: {env.num_envs} slots were built, {len(task_ids)} were asked for"
            )
        self.spec = spec
        self.task_ids: IntArray = np.asarray(task_ids)
        self._env = env
        self._base: Any = env.unwrapped
        self._wrapped = env is not env.unwrapped
        self.never_hangs = not self._wrapped and _is_arithmetic(self._base)
        self._num_slots = len(task_ids)
        self._copies = self._wrapped or not getattr(self._base, "fresh_observations", None)
        # Of a vectorized form of its own, or of a user; single environments are checked one by one.
        self._declared = batch_space(env.single_observation_space, self._num_slots)
        self._observed = f"environment {spec.name!r}: observation"
        self._action_shape = (self._num_slots, *(env.single_action_space.shape or ()))
        self._life_losses = life_losses
        self._info_mask = info_mask
        self._refuses_mask = info_mask in (None, "refuse") and ACTION_MASK not in spec.observation
        self._seen = dict(spec.observation)
        if info_mask == "use":
            del self._seen[ACTION_MASK]
        self._lives: IntArray = np.zeros(self._num_slots, dtype=np.int64)
        self._entry: StepResult | None = None

    @property
    def waiting_for(self) -> str:
        """The part that is being stepped, or the environment's name."""
        return getattr(self._base, "waiting_for", None) or self.spec.name

    def reset(self, seeds: Sequence[int]) -> StepResult:
        """Start an episode in every slot; one seed per slot."""
        if len(seeds) != self._num_slots:
            raise ValueError(f"{self._num_slots} slots need as many seeds, got {len(seeds)}")
        try:
            observation, infos = self._env.reset(seed=self._env_seed(seeds))
        except RAISED as error:
            raise self._fault("reset", error) from error
        self._check_infos(infos)
        nothing = np.zeros(self._num_slots, dtype=np.bool_)
        return self._answer(observation, nothing, nothing, nothing, infos, ~nothing)

    def step(self, actions: Array) -> StepResult:
        """Step every slot; a slot whose episode ended with the last entry is reset, its action ignored."""
        if self._entry is None:
            raise ValueError("reset comes before step")
        actions = native_actions(self.spec.action, checked_actions(self.spec.action, actions, self._num_slots))
        actions = actions.reshape(self._action_shape)
        resets = self._entry.terminated | self._entry.truncated
        try:
            observation, reward, terminated, truncated, infos = self._env.step(actions)
        except RAISED as error:
            raise self._fault("step", error) from error
        if self._refuses_mask and ACTION_MASK in infos:  # some give none at a reset
            raise EnvironmentFaultError(self._mask_refusal())
        return self._answer(observation, reward, terminated, truncated, infos, resets)

    def recover(self) -> StepResult | None:
        """Called from another thread while ``step`` hangs: replace the stuck part and finish the step."""
        if self._entry is None or self._wrapped or not hasattr(self._base, "recover"):
            return None
        resets = self._entry.terminated | self._entry.truncated
        try:
            answer = self._base.recover()
        except RAISED as error:
            raise self._fault("recover", error) from error
        if answer is None:
            return None
        observation, reward, terminated, truncated, infos = answer
        return self._answer(observation, reward, terminated, truncated, infos, resets)

    def stacks(self) -> str:
        """The Python stacks of worker processes that have not answered; empty without such processes."""
        return self._base.stacks() if isinstance(self._base, WorkerEnvs) else ""

    def get_state(self) -> Mapping[str, Array] | None:
        """A full copy of the environment's state and of the current entry, or None when it can't be saved."""
        if self._entry is None or self._wrapped or not hasattr(self._base, "get_state"):
            return None
        state: dict[str, Array] = {f"env/{key}": value for key, value in self._base.get_state().items()}
        return {**state, **self._entry.state(), "lives": self._lives.copy()}

    def set_state(self, state: Mapping[str, Array]) -> StepResult:
        """Restore ``get_state`` and return the current entry again."""
        self._base.set_state(copies(section(state, "env/")))
        self._lives = state["lives"].copy()
        self._entry = StepResult.from_state(state)
        return self._entry

    def render(self) -> Array:
        """``[H, W, 3]`` uint8: a picture of slot 0, for environments made with ``make_for_video``.

        Raises:
            UserError: the environment renders no picture, or the library that it draws with is not installed.
            EnvironmentFaultError: drawing failed.
        """
        name = self.spec.name
        no_picture = UserError(f"environment {name!r} renders no picture; build it with render_mode='rgb_array'")
        try:
            frames = self._env.render()
        except DependencyNotInstalled as error:  # gymnasium's own environments say what to install
            raise UserError(f"environment {name!r} can't be drawn: {error}") from error
        except ModuleNotFoundError as error:
            remedy = f"install the package that holds {error.name!r}"
            raise UserError(f"environment {name!r} can't be drawn: {error}; {remedy}") from error
        except NotImplementedError as error:
            raise no_picture from error
        except RAISED as error:
            if remedy := remedy_for_opengl(error):
                raise UserError(f"environment {name!r} can't be drawn: {in_one_line(error)}{remedy}") from error
            raise self._fault("render", error) from error
        picture = as_picture(frames[0]) if isinstance(frames, tuple | list | np.ndarray) and len(frames) else None
        if picture is None:
            raise no_picture
        return picture

    @property
    def render_fps(self) -> float | None:
        """Pictures per second that the environment states."""
        return stated_fps(self._env.metadata)

    def close(self) -> None:
        """Release processes and memory at once, also while another thread hangs in ``step``."""
        if hasattr(self._base, "close_at_once"):
            self._base.close_at_once()
        elif isinstance(self._base, AsyncVectorEnv) and not isinstance(self._base, WorkerEnvs):
            end_workers(self._base)
        self._env.close()  # wrappers as well

    @staticmethod
    def _takes(action: ActionSpec, space: spaces.Space[Any]) -> bool:
        """Whether an action space takes the policy's actions."""
        if isinstance(space, spaces.Discrete):
            return action.choices == (space.n,)
        if isinstance(space, spaces.MultiDiscrete):
            return action.choices == tuple(space.nvec)
        return isinstance(space, spaces.Box) and len(action.low) == space.low.size

    def _env_seed(self, seeds: Sequence[int]) -> Any:
        """gymnasium's own vectorized environments take one seed for all slots, the others one per slot."""
        if isinstance(self._base, (SyncVectorEnv, AsyncVectorEnv)) or getattr(self._base, "seed_per_slot", None):
            return [int(seed) for seed in seeds]
        return int(np.random.SeedSequence([int(seed) for seed in seeds]).generate_state(1)[0])

    def _answer(
        self,
        observation: Any,
        reward: npt.ArrayLike,
        terminated: npt.ArrayLike,
        truncated: npt.ArrayLike,
        infos: Mapping[str, Any],
        resets: BoolArray,
    ) -> StepResult:
        lives = self._lives
        if self._life_losses:
            if "lives" not in infos:
                raise EnvironmentFaultError(
                    f"environment {self.spec.name!r}: infos have no 'lives'; let the wrapper keep them "
                    "or set life_loss_ends_return=False"
                )
            lives = self._checked("lives", infos["lives"], (), np.int64)
        ended: BoolArray = self._checked("terminated", terminated, (), np.bool_)
        cut: BoolArray = self._checked("truncated", truncated, (), np.bool_)
        seen = self._checked_observation(as_declared(self._declared, observation, self._observed))
        if self._info_mask == "use":
            seen[ACTION_MASK] = self._mask_of(infos, ended | cut)
        entry = single_agent_step(
            observation=seen,
            # A user's wrapper may shift rewards, that of a reset step too; it belongs to no episode.
            reward=np.where(resets, np.float32(0), self._checked("reward", reward, (), np.float32)),
            terminated=ended,
            truncated=cut,
            life_lost=(lives < self._lives) & ~ended & ~resets,
        )
        self._check_choice(entry)
        self._lives, self._entry = lives, entry
        return entry

    def _check_infos(self, infos: Mapping[str, Any]) -> None:
        """A mask that the policy does not see would let it act against the rules."""
        if self._info_mask == "use" and ACTION_MASK not in infos:
            raise UserError(
                f"environment {self.spec.name!r}: info_mask=use, but there is none in its infos; leave it out"
            )
        if self._refuses_mask and ACTION_MASK in infos:
            raise UserError(self._mask_refusal())

    def _mask_refusal(self) -> str:
        remedy = f"put it into the observation, a Dict with the key {ACTION_MASK!r}"
        if self._info_mask == "refuse":
            remedy = "add --info-mask use for a policy that keeps to it, or --info-mask ignore"
        return f"environment {self.spec.name!r}: gives an {ACTION_MASK} in its infos; {remedy}"

    def _mask_of(self, infos: Mapping[str, Any], ended: BoolArray) -> BoolArray:
        """``[B, choices]``: the masks of the infos; all is allowed where an episode ended without one."""
        choices = self.spec.action.num_parameters
        given = np.asarray(infos.get(f"_{ACTION_MASK}", np.full(self._num_slots, ACTION_MASK in infos)))
        if not (given | ended).all():
            slot = int(np.argmin(given | ended))
            raise EnvironmentFaultError(f"environment {self.spec.name!r}: infos of slot {slot} have no {ACTION_MASK}")
        result = np.ones((self._num_slots, choices), np.bool_)
        for slot in np.flatnonzero(given).tolist():
            mask = np.asarray(infos[ACTION_MASK][slot])
            if mask.shape != (choices,) or not np.isin(mask, (0, 1)).all():
                raise EnvironmentFaultError(
                    f"environment {self.spec.name!r}: {ACTION_MASK} of slot {slot} must be {choices} times 0 or 1, got "
                    f"{mask}"
                )
            result[slot] = mask
        return result

    def _check_choice(self, entry: StepResult) -> None:
        """A slot that is to act must have a choice."""
        mask = entry.observation.get(ACTION_MASK)
        if mask is None or self.spec.action.kind == "continuous":
            return
        helpless = without_choice(self.spec.action, mask) & ~(entry.terminated | entry.truncated)
        if helpless.any():
            slot = int(np.argmax(helpless))
            raise EnvironmentFaultError(f"environment {self.spec.name!r}: no action is allowed in slot {slot}")

    def _checked_observation(self, observation: Any) -> dict[str, Array]:
        try:
            parts = flat_observation(self._seen, observation)
        except ValueError as error:
            raise EnvironmentFaultError(f"environment {self.spec.name!r}: {error}") from error
        result: dict[str, Array] = {}
        for key, part in self._seen.items():
            checked = self._checked(key, parts[key], part.shape, np.dtype(part.dtype))
            result[key] = checked.copy() if self._copies and checked is parts[key] else checked
        return result

    def _checked(self, field: str, value: npt.ArrayLike, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Any:
        """``value`` as an array ``[B, *shape]`` of the dtype; refuses other shapes and what is not finite."""
        array = np.asarray(value)
        if array.shape != (self._num_slots, *shape):
            raise EnvironmentFaultError(
                f"environment {self.spec.name!r}: {field} has shape {array.shape}, "
                f"it must be {(self._num_slots, *shape)} ({self._num_slots} slots)"
            )
        if array.dtype.kind not in "fc":  # integers and truth values are always finite
            return array.astype(dtype, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = array.astype(dtype, copy=False)
        # float64 holds finite numbers that float32 does not; integers hold no NaN.
        finite = np.isfinite(cast if cast.dtype.kind in "fc" else array)
        if not finite.all():
            slot = int(np.argmin(finite.reshape(self._num_slots, -1).all(axis=1)))
            task = self.spec.tasks[int(self.task_ids[slot])]
            raise EnvironmentFaultError(
                f"environment {self.spec.name!r}: {field} of slot {slot} (task {task!r}) is not finite"
            )
        return cast

    def _fault(self, call: str, error: BaseException) -> EnvironmentFaultError:
        if isinstance(error, EnvironmentFaultError):
            return error
        return environment_fault(self.spec.name, self.waiting_for, call, error)


def _is_arithmetic(env: AnyVectorEnv) -> bool:
    """Whether its steps are arithmetic: of a toy of ours, or of one of gymnasium's own environments for all slots."""
    own = type(env).__module__.startswith("gymnasium.envs.")
    return own or bool(getattr(env, "never_hangs", None))
