"""Tables of how a run is doing, from its ``status.json``."""

from __future__ import annotations

from collections import Counter, defaultdict

from rich.table import Table
from rich.text import Text

from machina.checkpoint.status import Status


def status_tables(status: Status) -> list[Table]:
    """The run as a whole, its nodes, and its actors.

    Args:
        status: what the run wrote last, see ``RunDirectory.status``.
    """
    return [_whole(status), _nodes(status), _actors(status)]


def _whole(status: Status) -> Table:
    account, lag = status.account, status.policy_lag_mean
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("env steps", f"{status.env_steps:,}, {status.env_steps_per_s:,.0f}/s")
    table.add_row("updates", f"{status.updates:,}")
    unknown = "no update yet"
    table.add_row("policy lag", unknown if lag is None else f"mean {lag:.1f}, most {status.policy_lag_max:.0f}")
    whole, *terms = (f"{number:,} {name}" for name, number in account.items())
    table.add_row("unrolls", f"{whole} = {' + '.join(terms)}")
    table.add_row("learner ranks", f"{status.learner_ranks}, started again {status.learner_restarts} times")
    table.add_row("faults", str(status.faults))
    return table


def _nodes(status: Status) -> Table:
    table = Table("node", "CPUs", "GPUs", "actors", "env steps/s", box=None, pad_edge=False, title_justify="left")
    actors = Counter(actor.node for actor in status.actors)
    steps: defaultdict[str, float] = defaultdict(float)
    for actor in status.actors:
        steps[actor.node] += actor.env_steps_per_s
    for node in status.nodes:
        name = node.name
        table.add_row(Text(name), f"{node.cpus:g}", f"{node.gpus:g}", str(actors[name]), f"{steps[name]:,.0f}")
    return table


def _actors(status: Status) -> Table:
    table = Table("actor", "node", "state", "slots", "restarts", "heard of", "env steps", box=None, pad_edge=False)
    for actor in status.actors:
        table.add_row(
            str(actor.number),
            Text(actor.node),
            Text(actor.state),
            str(actor.slots),
            str(actor.restarts),
            f"{actor.heard_s:.0f} s ago",
            f"{actor.env_steps:,}",
        )
    return table
