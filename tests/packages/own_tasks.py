"""What a user writes for packages that register nothing by themselves, or speak another interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class Crafter(gymnasium.Env[Any, Any]):
    """Crafter speaks the interface of old gym: one flag for every end, the seed given once."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as gymnasium.Env has it)
    observation_space = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = spaces.Discrete(17)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._game: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        import crafter

        super().reset(seed=seed, options=options)
        if seed is not None or self._game is None:
            self._game = crafter.Env(seed=seed)
        return self._game.reset(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, reward, ended, info = self._game.step(int(action))
        died = info["discount"] == 0
        return observation, float(reward), died, ended and not died, {}

    def render(self) -> Any:
        return self._game.render((256, 256))


def reach(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Meta-World's ids take the task as an argument."""
    import metaworld  # noqa: F401 (it registers them)

    return gymnasium.make("Meta-World/MT1", env_name="reach-v3", seed=1, render_mode=render_mode)


def breakout(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """MinAtar's entry points are no longer read by gymnasium."""
    from minatar.gym import BaseEnv

    env: gymnasium.Env[Any, Any] = BaseEnv("breakout", render_mode=render_mode, use_minimal_action_set=True)
    return env


def deep_sea_treasure(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """MO-Gymnasium's rewards are vectors; a policy is trained on one weighting of them."""
    import mo_gymnasium

    env = mo_gymnasium.make("deep-sea-treasure-v0", render_mode=render_mode)
    scalar: gymnasium.Env[Any, Any] = mo_gymnasium.wrappers.LinearReward(env, np.array([0.8, 0.2]))
    return scalar


def airstriker(render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Stable Retro registers nothing; of all buttons at once, it offers the useful ones as choices."""
    import stable_retro

    env: gymnasium.Env[Any, Any] = stable_retro.make(
        "Airstriker-Genesis-v0",
        use_restricted_actions=stable_retro.Actions.DISCRETE,
        render_mode=render_mode or "rgb_array",
    )
    return env


gymnasium.register("Crafter-v0", entry_point="own_tasks:Crafter")
gymnasium.register("Reach-v0", entry_point="own_tasks:reach")
gymnasium.register("MinAtarBreakout-v0", entry_point="own_tasks:breakout")
gymnasium.register("DeepSeaTreasure-v0", entry_point="own_tasks:deep_sea_treasure", disable_env_checker=True)
gymnasium.register("Airstriker-v0", entry_point="own_tasks:airstriker", max_episode_steps=1_000)
