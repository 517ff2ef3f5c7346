"""A user's wrapper, as it would lie in the working directory."""

from typing import Any

from gymnasium.vector import VectorEnv, VectorRewardWrapper

BONUS = 5.0


class Bonus(VectorRewardWrapper):
    """Every step pays more."""

    def rewards(self, reward: Any) -> Any:
        return reward + BONUS


def bonus(env: VectorEnv[Any, Any, Any]) -> VectorEnv[Any, Any, Any]:
    return Bonus(env)
