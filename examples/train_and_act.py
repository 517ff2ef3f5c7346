"""Train on CartPole for half a minute, then act with the policy in an environment of your own.

python examples/train_and_act.py
"""

from __future__ import annotations

import gymnasium

import machina


def main() -> None:
    """Train, load, act."""
    run = machina.train("impala", "CartPole-v1", minutes=0.5)
    policy = machina.load_policy(run.path)

    env = gymnasium.make("CartPole-v1")
    observation, _ = env.reset(seed=0)
    policy.reset()
    episode_return, reward, done = 0.0, 0.0, False
    while not done:
        observation, new_reward, terminated, truncated, _ = env.step(policy.act(observation, reward))
        reward = float(new_reward)
        episode_return += reward
        done = terminated or truncated
    print(f"one episode with the policy of {run.path}: return {episode_return:g}")


if __name__ == "__main__":
    main()
