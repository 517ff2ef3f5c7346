"""From an environment's name to the factory that builds it. Environment libraries are imported on use."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from machina.config import Config, EnvConfig
from machina.envs.atari_games import ATARI57, NOT_FOR_ONE, NUM_FULL_ACTIONS
from machina.envs.config import AtariConfig, GameConfig, GymnasiumConfig, ToyConfig
from machina.envs.games.table import GAMES, game_factory, is_game
from machina.envs.names import meant
from machina.envs.spec_of_env import spec_of, spec_of_wrapped
from machina.envs.wrappers import wrapped
from machina.errors import RAISED, EnvironmentFaultError, UserError, in_one_line_with_place
from machina.interfaces import EnvFactory, SlotEnv
from machina.specs import ArraySpec, EnvSpec, discrete
from machina.types import OBSERVATION

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec as GymnasiumSpec

    from machina.envs.slots import AnyVectorEnv

Progress = Callable[[int], None]

TOY_TASKS: dict[str, tuple[str, ...]] = {
    "catch": ("catch",),
    "counting": ("counting",),
    "two_scales": ("small", "large"),
    "recall": ("recall",),
}
"""The toys of machina.envs.toys and their tasks."""

ENVIRONMENTS: dict[str, Callable[[int], AnyVectorEnv]] = {}
"""Environments added with ``register_environment``."""


def register_environment(name: str, function: Callable[[int], AnyVectorEnv]) -> None:
    """Make ``name`` usable as an environment.

    Args:
        name: what stands on the command line and in ``RunConfig.environment``.
        function: takes the number of slots, returns a ``gymnasium.vector.VectorEnv`` with autoreset mode
            NEXT_STEP, and spaces of numbers (docs/environments.md). It is called for every group of environments.

    Raises:
        UserError: the name is taken.
    """
    if any(name in names for names in (ENVIRONMENTS, TOY_TASKS, ATARI57, GAMES, ("atari57",))):
        raise UserError(f"environment name {name!r} is taken; choose another one")
    ENVIRONMENTS[name] = function


def describe(name: str) -> type[EnvConfig]:
    """The configuration class of the environment ``name``, without building it.

    Raises:
        UserError: no environment is called like that; names the nearest.
    """
    if name in ENVIRONMENTS:
        return EnvConfig
    if name in TOY_TASKS:
        return ToyConfig
    if is_game(name):
        return GameConfig
    if name == "atari57" or all(game in ATARI57 for game in name.split(",")):
        return AtariConfig
    if ":" in name or "/" in name or re.search(r"-v\d+$", name):
        return GymnasiumConfig
    _check_games(name)
    return AtariConfig


def parse_environment(name: str, config: EnvConfig, wrapper: str | None = None, env_threads: int = 1) -> EnvFactory:
    """The factory of the environment ``name``.

    Args:
        name: ``atari57``, a game, games joined by commas, a game for several agents, a gymnasium id,
            ``module:Env-v0``, a PettingZoo environment (``pettingzoo:ID``, a module, ``module:parallel_env`` or
            ``module:env``), a toy, or a name given to ``register_environment``.
        config: of the class that ``describe`` names.
        wrapper: ``module:function``, applied to the whole vector environment of every group.
        env_threads: threads that step one game's environments.

    Raises:
        UserError: name, configuration class, wrapper or environment is unusable.
    """
    if not isinstance(config, describe(name)):
        raise UserError(f"environment {name!r} takes {describe(name).__name__}, got {type(config).__name__}")
    if name in ENVIRONMENTS:
        return _registered_factory(name, wrapper)
    if isinstance(config, GameConfig):
        if wrapper is not None:
            raise UserError(
                f"wrapper {wrapper!r}: environment {name!r} has several agents, no wrapper fits; leave it out"
            )
        return game_factory(name, config)
    if isinstance(config, AtariConfig):
        return _atari_factory(name, config, wrapper, env_threads)
    if isinstance(config, GymnasiumConfig):
        return _gymnasium_factory(name, config, wrapper)
    return _toy_factory(name, wrapper)


class _Factory(Config):
    """What the factories share: the spec and the user's wrapper."""

    spec: EnvSpec
    wrapper: str | None = None

    def _slots(self, env: AnyVectorEnv, task_ids: Sequence[int], **options: Any) -> SlotEnv:
        from machina.envs.declared import close_in_time
        from machina.envs.slots import GymnasiumSlots

        try:
            return GymnasiumSlots(wrapped(env, self.wrapper), self.spec, task_ids, **options)
        except BaseException:
            close_in_time(env.close, self.spec.name)
            raise


class AtariFactory(_Factory):
    """Builds ``machina.envs.atari.AtariTasks``."""

    config: AtariConfig
    env_threads: int

    def make(self, task_ids: Sequence[int], progress: Progress | None = None) -> SlotEnv:
        """One slot per entry of ``task_ids``; ``progress`` is called with the number of environments as they start."""
        return self._make(task_ids, progress=progress)

    def make_for_video(self, task_id: int) -> SlotEnv:
        """One slot that can be rendered."""
        return self._make([task_id], for_video=True)

    def _make(self, task_ids: Sequence[int], **options: Any) -> SlotEnv:
        from machina.envs.atari import AtariTasks

        full = full_action_space(self.spec.tasks, self.config)
        env = AtariTasks(self.spec.tasks, task_ids, self.config, self.env_threads, full=full, **options)
        return self._slots(env, task_ids, life_losses=self.config.life_loss_ends_return)


class GymnasiumFactory(_Factory):
    """Builds an environment from its gymnasium id."""

    config: GymnasiumConfig

    @property
    def in_workers(self) -> bool:
        """Whether every slot is stepped in a process of its own."""
        from machina.envs import gymnasium_envs

        if self.config.processes is None:
            return not gymnasium_envs.is_native(_registered(self.spec.name, self.config))
        return self.config.processes

    def make(self, task_ids: Sequence[int], progress: Progress | None = None) -> SlotEnv:
        """One slot per entry of ``task_ids``."""
        from machina.envs import gymnasium_envs
        from machina.envs.workers import WorkerEnvs

        spec = _registered(self.spec.name, self.config)
        keep_infos = self.wrapper is not None

        def build() -> AnyVectorEnv:
            if not self.in_workers and gymnasium_envs.is_native(spec):
                return gymnasium_envs.make_native(spec, len(task_ids))
            build = WorkerEnvs if self.in_workers else gymnasium_envs.InProcessEnvs
            return build(spec, len(task_ids), self.spec.name, keep_infos)

        env = _built(self.spec.name, build)
        return _counted(self._slots(env, task_ids, info_mask=self.config.info_mask), progress)

    def make_for_video(self, task_id: int) -> SlotEnv:
        """One slot that can be rendered."""
        from machina.envs import gymnasium_envs

        spec = _registered(self.spec.name, self.config)
        env = _built(self.spec.name, lambda: gymnasium_envs.InProcessEnvs(spec, 1, self.spec.name, True, "rgb_array"))
        return self._slots(env, [task_id], info_mask=self.config.info_mask)


class ToyFactory(_Factory):
    """Builds a task of machina.envs.toys."""

    def make(self, task_ids: Sequence[int], progress: Progress | None = None) -> SlotEnv:
        """One slot per entry of ``task_ids``."""
        import numpy as np

        from machina.envs.toys import TOYS, ToyEnv

        env = ToyEnv(TOYS[self.spec.name], np.asarray(task_ids, dtype=np.int64))
        return _counted(self._slots(env, task_ids), progress)

    def make_for_video(self, task_id: int) -> SlotEnv:
        """One slot that can be rendered."""
        return self.make([task_id])


class RegisteredFactory(_Factory):
    """Builds an environment added with ``register_environment``."""

    function: Callable[[int], Any]

    def make(self, task_ids: Sequence[int], progress: Progress | None = None) -> SlotEnv:
        """One slot per entry of ``task_ids``."""
        from machina.envs.declared import declare_single_envs

        env = _built(self.spec.name, lambda: self.function(len(task_ids)))
        declare_single_envs(env, self.spec.name)
        return _counted(self._slots(env, task_ids), progress)

    def make_for_video(self, task_id: int) -> SlotEnv:
        """One slot; rendering needs an environment that was built with render_mode="rgb_array"."""
        return self.make([task_id])


def full_action_space(games: Sequence[str], config: AtariConfig) -> bool:
    """Whether the policy has all 18 actions: with several games always, with one game on request."""
    return len(games) > 1 or bool(config.full_action_space)


def _built(name: str, build: Callable[[], AnyVectorEnv]) -> AnyVectorEnv:
    """An environment from code that is not ours.

    Raises:
        UserError: it can't be built, with the reason, or is no vector environment.
    """
    from gymnasium.vector import VectorEnv

    try:
        env = build()
    except UserError:
        raise
    except EnvironmentFaultError as error:  # says of itself which environment
        raise UserError(str(error)) from error
    except RAISED as error:
        from machina.envs.pictures import remedy_for_opengl

        reason = in_one_line_with_place(error, name.partition(":")[0])
        raise UserError(f"environment {name!r} can't be built: {reason}{remedy_for_opengl(error)}") from error
    if not isinstance(env, VectorEnv):
        raise UserError(f"environment {name!r} must be a gymnasium.vector.VectorEnv, got {type(env).__name__}")
    return env


def _counted(env: SlotEnv, progress: Progress | None) -> SlotEnv:
    if progress is not None:
        progress(len(env.task_ids))
    return env


def _check_games(name: str) -> tuple[str, ...]:
    """The games of a list joined by commas.

    Raises:
        UserError: an unknown game, with the nearest names, or one given twice.
    """
    if name == "atari57":
        return ATARI57
    games = tuple(name.split(","))
    if for_two := [game for game in games if game in NOT_FOR_ONE]:
        raise UserError(
            f"environment {name!r}: {for_two[0]} is for two players, it has no game for one; "
            f"train pettingzoo:{NOT_FOR_ONE[for_two[0]]} instead"
        )
    if unknown := [game for game in games if game not in ATARI57]:
        from machina.envs.atari import all_games

        known = all_games()
        if unknown := [game for game in unknown if game not in known]:
            raise UserError(f"unknown environment {unknown[0]!r}{meant(unknown[0], _own_names())}")
    if twice := [game for game in dict.fromkeys(games) if games.count(game) > 1]:
        raise UserError(f"environment {name!r}: {', '.join(twice)} given more than once")
    return games


def _own_names() -> list[str]:
    return ["atari57", *TOY_TASKS, *GAMES, *ENVIRONMENTS]


def _find_spec(name: str, drop_keys: Sequence[str] = (), max_steps: int | None = None) -> GymnasiumSpec:
    """The registered environment ``name``, without some parts of its observation, perhaps with another limit.

    Raises:
        UserError: there is none, or it is one of Atari's; names what may have been meant.
    """
    from machina.envs import gymnasium_envs
    from machina.envs.observations import spec_without

    spec = gymnasium_envs.find_spec(name)
    if spec is None:
        raise UserError(
            f"environment {name!r}: gymnasium knows no id {name.rpartition(':')[2]!r}{meant(name, _own_names())}"
        )
    if str(spec.entry_point).startswith("ale_py"):
        raise UserError(f"environment {name!r}: Atari games have names of their own{meant(name, _own_names())}")
    if max_steps is not None:
        spec = dataclasses.replace(spec, max_episode_steps=max_steps)
    return spec_without(spec, drop_keys) if drop_keys else spec


def _registered(name: str, config: GymnasiumConfig) -> GymnasiumSpec:
    """The registered environment as the options want it observed.

    Raises:
        UserError: there is none, or the options contradict one another.
    """
    spec = _find_spec(name, config.drop_keys, config.max_steps)
    if config.observe == "state":
        return spec
    if config.drop_keys:
        raise UserError(f"drop_keys={', '.join(config.drop_keys)}: observe=pixels has no keys; leave one of them out")
    from machina.envs.pixels import spec_of_pictures

    return spec_of_pictures(spec, name)


def _atari_factory(name: str, config: AtariConfig, wrapper: str | None, env_threads: int) -> AtariFactory:
    games = _check_games(name)
    if len(games) > 1 and config.full_action_space is False:
        raise UserError("full_action_space=False: several games share all 18 actions; leave it out or train one game")
    from machina.envs import atari

    full = full_action_space(games, config)
    frames = ArraySpec(shape=(config.frame_stack, atari.FRAME_SIZE, atari.FRAME_SIZE), dtype="uint8")
    spec = EnvSpec(
        name=name,
        tasks=games,
        observation={OBSERVATION: frames},
        action=discrete(NUM_FULL_ACTIONS if full else atari.minimal_num_actions(games[0])),
        frame_stack=config.frame_stack,
        clip_rewards=True,
        frames_per_step=config.frame_skip,
        protocol={
            "action_set": "full" if full else "minimal",
            "noop_frames": f"0 to {config.noop_max}",
            **config.model_dump(exclude={"envs_per_task", "full_action_space", "noop_max"}),
        },
    )
    if wrapper is not None:
        env = atari.AtariTasks(games[:1], [0], config, 1, full=full)
        spec = spec_of_wrapped(env, spec, wrapper)
    return AtariFactory(spec=spec, wrapper=wrapper, config=config, env_threads=env_threads)


def _gymnasium_factory(name: str, config: GymnasiumConfig, wrapper: str | None) -> GymnasiumFactory:
    from machina.envs import gymnasium_envs
    from machina.envs.observations import with_info_mask

    limit = config.max_steps or _find_spec(name).max_episode_steps
    protocol = {} if limit is None else {"max_episode_steps": limit}
    registered = _registered(name, config)
    env = _built(name, lambda: gymnasium_envs.InProcessEnvs(registered, 1, name, True))
    spec = spec_of(env, name, (name,), protocol, wrapper, config.action_bins, can_drop=True)
    if config.info_mask == "use":
        spec = with_info_mask(spec)
    if config.observe == "pixels":
        # A wrapper may change pixels: then whole stacks are stored.
        seen = {"protocol": {**spec.protocol, "observe": "pixels"}, "frame_stack": 4 if wrapper is None else 1}
        spec = spec.model_copy(update=seen)
    return GymnasiumFactory(spec=spec, wrapper=wrapper, config=config)


def _toy_factory(name: str, wrapper: str | None) -> ToyFactory:
    import numpy as np

    from machina.envs.toys import TOYS, ToyEnv

    spec = spec_of(ToyEnv(TOYS[name], np.zeros(1, dtype=np.int64)), name, TOY_TASKS[name], {}, wrapper)
    return ToyFactory(spec=spec, wrapper=wrapper)


def _registered_factory(name: str, wrapper: str | None) -> RegisteredFactory:
    function = ENVIRONMENTS[name]
    spec = spec_of(_built(name, lambda: function(1)), name, (name,), {}, wrapper)
    return RegisteredFactory(spec=spec, wrapper=wrapper, function=function)
