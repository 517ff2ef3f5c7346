"""The table for users of RLlib names every option of its tables, and only options that exist."""

from __future__ import annotations

import re
from pathlib import Path

from machina.algorithms.apex.config import ApexConfig
from machina.config import RunConfig, option_paths
from machina.envs.config import AtariConfig, GymnasiumConfig

DOCUMENT = Path(__file__).parents[1] / "docs" / "from_rllib.md"
SETTINGS = [
    "num_workers",
    "num_cpus_per_worker",
    "num_gpus_per_worker",
    "num_envs_per_worker",
    "custom_preprocessor",
    "optimizer_class",
    "debug",
    "tf_session_args",
    "checkpoint_freq",
    "per_worker_exploration",
    "exploration_fraction",
    "exploration_final_eps",
    "horizon",
    "learning_starts",
    "sample_async",
    "sample_batch_size",
    "buffer_size",
    "prioritized_replay",
    "prioritized_replay_alpha",
    "prioritized_replay_beta",
    "final_prioritized_replay_beta",
    "prioritized_replay_eps",
    "beta_annealing_fraction",
    "worker_side_prioritization",
    "compress_observations",
    "preprocessor_pref",
    "observation_filter",
    "synchronize_filters",
    "clip_rewards",
    "double_q",
    "dueling",
    "gamma",
    "n_step",
    "target_network_update_freq",
    "timesteps_per_iteration",
    "min_iter_time_s",
    "train_batch_size",
    "hiddens",
    "noisy",
    "sigma0",
    "num_atoms",
    "v_min",
    "v_max",
    "max_weight_sync_delay",
    "num_replay_buffer_shards",
    "lr",
    "adam_epsilon",
    "grad_norm_clipping",
    "schedule_max_timesteps",
    "gpu",
    "gpu_fraction",
    "monitor",
    "batch_mode",
]


def test_every_setting_has_one_row() -> None:
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows if name != "RLlib"] == SETTINGS
    for name, counterpart in rows:
        assert "`--" in counterpart or counterpart.startswith("none: ") or name in ("RLlib", "monitor"), name


def test_every_option_that_is_named_exists() -> None:
    kinds = (RunConfig[ApexConfig, AtariConfig], RunConfig[ApexConfig, GymnasiumConfig])
    known = {name.replace("_", "-") for kind in kinds for name in option_paths(kind)}
    named = set(re.findall(r"`--([a-z0-9-]+)", DOCUMENT.read_text(encoding="utf-8")))
    assert named <= known, sorted(named - known)
    assert len(named) > 35
