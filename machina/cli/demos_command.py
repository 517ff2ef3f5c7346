"""``machina demos``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field
from tyro.conf import Positional

from machina.cli.env_options import env_config, with_env_options
from machina.cli.options import leading_names, parse, taken_option
from machina.config import Config
from machina.errors import UserError, nearest


class DemosInfoOptions(Config):
    """List the episodes of a set: return, length, who acted, seed, protocol; and the files that were refused."""

    demos: Positional[Path] = Field(description="Folder of recorded episodes.")


class DemosExportOptions(Config):
    """Write a set as one Minari data set, without loss."""

    demos: Positional[Path] = Field(description="Folder of recorded episodes.")
    out: Path = Field(description="Folder that becomes the root of Minari's data sets (MINARI_DATASETS_PATH).")


class DemosImportOptions(Config):
    """Read a Minari data set into a set of recorded episodes."""

    source: Positional[str] = Field(
        description="An HDF5 file of Minari's, a data set's folder, or the id of one that was downloaded."
    )
    env: str = Field(description="Environment that the episodes are of, as for machina train.")
    out: Path = Field(description="Folder of the set; what it holds already stays.")


def run(arguments: list[str]) -> int:
    """Do what the word after ``demos`` says."""
    names, rest = leading_names(arguments, 1)
    if not names:
        if set(rest) - {"--help", "-h"}:
            raise UserError(f"demos needs a word before its options: {', '.join(WORDS)}; see machina demos")
        print(_usage())
        return 0
    if names[0] not in WORDS:
        raise UserError(f"demos: unknown word {names[0]!r}{nearest(names[0], WORDS) or '; see machina demos'}")
    return WORDS[names[0]][0](rest)


def _info(arguments: list[str]) -> int:
    options = parse(DemosInfoOptions, arguments, "machina demos info")

    from machina.jobs.demos import demos_info

    rows, demonstrations = demos_info(options.demos)
    table = [("", "file", "return", "length", "seed", "pictures", "who", "end")]
    for row in rows:
        numbers = (f"{row.episode_return:,.6g}", f"{row.length:,}", "unknown" if row.seed is None else str(row.seed))
        table.append((str(row.number), row.file, *numbers, row.pictures, row.who, row.end))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    print(f"{options.demos}: {len(rows)} episodes, {sum(row.length for row in rows):,} steps, checksums good")
    for cells in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    for environment, protocol in dict.fromkeys((row.environment, row.protocol) for row in rows):
        print(f"{environment}: {protocol or 'as the environment comes'}")
    for refusal in demonstrations.refusals:
        print(f"refused {refusal.file}: {refusal.reason}")
    return 0


def _export(arguments: list[str]) -> int:
    options = parse(DemosExportOptions, arguments, "machina demos export")

    from machina.jobs.demos_export import export_demos

    done = export_demos(options.demos, options.out)
    for line in done.refused:
        print(line)
    print(f"{done.folder}: {done.episodes} episodes; MINARI_DATASETS_PATH={options.out} makes it {done.dataset_id}")
    return 0


def _import(arguments: list[str]) -> int:
    environment, _ = taken_option(arguments, "--env")
    if environment is None:
        options = parse(DemosImportOptions, arguments, "machina demos import")
        environment = options.env
    from machina.envs.builders import describe

    env = describe(environment)()
    chosen = parse(with_env_options(DemosImportOptions, env), arguments, "machina demos import")

    from machina.jobs.demos_import import import_demos

    done = import_demos(chosen.source, chosen.env, env_config(chosen, env), chosen.out)
    for line in done.refused:
        print(line)
    if done.open_ended:
        print(f"neither terminated nor truncated at the end: {', '.join(done.open_ended)}")
    print(f"{chosen.out}: {len(done.files)} episodes imported, {len(done.refused)} refused")
    return 0


WORDS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "info": (_info, "list the episodes of a set: machina demos info DEMOS"),
    "import": (_import, "read a Minari data set: machina demos import DATASET --env CartPole-v1 --out DEMOS"),
    "export": (_export, "write a Minari data set: machina demos export DEMOS --out FOLDER"),
}
"""What may follow ``demos``: the function, and its one line."""


def _usage() -> str:
    width = max(map(len, WORDS))
    rows = "\n".join(f"  {name:{width}}  {line}" for name, (_, line) in WORDS.items())
    return f"usage: machina demos WORD [OPTIONS]\n\nSets of recorded episodes, see machina record.\n\n{rows}"
