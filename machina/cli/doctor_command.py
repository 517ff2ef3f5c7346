"""``machina doctor``."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.options import parse
from machina.config import Config


class DoctorOptions(Config):
    """What this machine offers, and a job's measured ceiling, which live views then refer to."""

    algorithm: Positional[str] = Field(default="impala", description="Algorithm to measure.")
    environment: Positional[str] = Field(default="pong", description="Environment to measure.")
    seconds: float = Field(
        default=4.0, gt=0, le=3600, description="Seconds for each of environment, acting and learning."
    )


def run(arguments: list[str]) -> int:
    """Look around, then measure."""
    options = parse(DoctorOptions, arguments, "machina doctor")

    import torch

    from machina.cluster.access import describe
    from machina.envs.atari import all_games
    from machina.envs.atari_games import ATARI57
    from machina.jobs.ceiling import BUSY, load_per_core, measure_ceiling, remember_ceiling
    from machina.launch.configuration import job_config
    from machina.launch.plan import plan_run

    config, _ = job_config(options.algorithm, options.environment, None)
    plan = plan_run(config)
    missing = [game for game in ATARI57 if game not in all_games()]
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    rows = {
        "machine": plan.machine.line(),
        "memory": _memory(),
        "disk": f"{shutil.disk_usage(Path.cwd()).free / 2**30:.0f} GiB free here",
        "GPU": ", ".join(gpus) or "none that PyTorch can use",
        "ROMs": f"missing: {', '.join(missing)}" if missing else f"all {len(ATARI57)} Atari games",
        "Ray": describe(),
        "versions": ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "gymnasium", "ale-py", "numpy")),
    }
    for name, line in rows.items():
        print(f"{name:9} {line}", flush=True)
    load = load_per_core()
    print(f"measuring {options.algorithm} on {options.environment} …", flush=True)
    if load > BUSY:
        print(
            f"load      {load:.1f} programs per core are ready to run: the ceiling is lower than on an idle machine; a "
            "higher one that was measured before is kept",
            flush=True,
        )
    ceiling = measure_ceiling(plan, options.seconds)
    remember_ceiling(plan, ceiling, busy=load > BUSY)
    print(
        f"ceiling   {ceiling.serial:,.0f} env steps/s = 1 / (1/environment + 1/acting + 1/learning); each part alone: "
        f"environment {ceiling.environment:,.0f}, acting {ceiling.acting:,.0f}, learning {ceiling.learning:,.0f}; "
        f"the limit is the {ceiling.limit}"
    )
    return 0


def _memory() -> str:
    """Memory of the machine, from the kernel."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines}
    return f"{sizes['MemTotal']:.1f} GiB, {sizes['MemAvailable']:.1f} GiB available"
