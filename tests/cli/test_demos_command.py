"""``machina record``, ``replay`` and ``demos`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import SMALL_NET, Command

from machina.demonstrations import load_set


@pytest.fixture
def machina(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    return Command(capsys, tmp_path)


QUICK = ("--script", "random", "--no-pictures", "--episodes", "2")


def test_from_a_recording_to_a_data_set_and_back(machina: Command) -> None:
    lines = machina.good("record", "pong", "--frame-cap", "80", "--out", "demos", *QUICK).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["demos/000000.episode", "demos/000001.episode"]
    (machina.folder / "demos" / "notes.txt").write_text("mine")
    info = machina.good("demos", "info", "demos").splitlines()
    first, second = load_set(machina.folder / "demos").episodes
    assert info[0] == "demos: 2 episodes, 40 steps, checksums good"
    assert info[1].split() == ["file", "return", "length", "seed", "pictures", "who", "end"]
    assert info[2].split() == [
        "0",
        first.path.name,
        "0",
        "20",
        str(first.header.seed),
        "none",
        *("script", "random"),
        "truncated",
    ]
    assert info[3].split()[4] == str(second.header.seed)
    assert info[4].startswith("pong: action_set minimal, ")
    assert "frame_cap 80" in info[4]
    assert info[5:] == ["refused notes.txt: no recorded episode of Machina"]
    exported = machina.good("demos", "export", "demos", "--out", "minari").splitlines()
    assert exported == [
        "refused notes.txt: no recorded episode of Machina",
        "minari/machina/pong-v0: 2 episodes; MINARI_DATASETS_PATH=minari makes it machina/pong-v0",
    ]
    options = ("--env", "pong", "--frame-cap", "80", "--out", "back")
    imported = machina.good("demos", "import", "minari/machina/pong-v0", *options)
    assert imported == "back: 2 episodes imported, 0 refused\n"
    assert load_set(machina.folder / "back").seeds == {first.header.seed, second.header.seed}
    assert machina.good("replay", "back", "--episode", "1", "--mp4", "x.mp4") == "x.mp4: 21 pictures\n"


def test_a_run_s_policy_brings_its_environment_and_its_options(machina: Command) -> None:
    small = ("--filters", "8", "8", "8", *SMALL_NET, "--envs-per-task", "2", "--total-frames", "200")
    run = machina.train(
        "impala", "pong", "--config", "defaults", *small, "--frame-cap", "120", "--sticky-actions", "0.25"
    )
    machina.good("record", "--policy", run, "--out", "demos", "--no-pictures", "--episodes", "1")
    (episode,) = load_set(machina.folder / "demos").episodes
    assert (episode.header.spec.name, episode.header.length) == ("pong", 30)
    assert episode.header.spec.protocol["sticky_actions"] == 0.25
    line = machina.refused("record", "breakout", "--policy", run, "--out", "other")
    assert line == f"policy='{run}' was trained on pong, not on breakout; leave breakout out"
    line = machina.refused("record", "--policy", run, "--frame-stack", "2", "--out", "other")
    assert line.endswith("leave the environment and its options out, the run knows them")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("record --out demos", "name an environment, as in `machina record CartPole-v1 --out demos/cartpole`"),
        ("record CartPole-v1", "missing: --out"),
        ("record CartPol-v1 --out demos", "environment 'CartPol-v1': gymnasium knows no id 'CartPol-v1'; did you mean"),
        ("record CartPole-v1 --out demos", "a window needs a display: DISPLAY is not set; "),
        ("record CartPole-v1 --out file --script random", "out='file' is a file; name a folder"),
        ("record CartPole-v1 --out demos --script random --episodes 0", "episodes=0: must be 1 to 1000000"),
        ("record CartPole-v1 --out demos --keys none.yaml", "configuration 'none.yaml' can't be read: No such file"),
        ("record CartPole-v1 --out demos --sticky-actions 0", "unknown option '--sticky-actions'"),
        (
            "record pong --out demos --script random --sticky-actions 2",
            "sticky_actions=2.0: must be 0 or more, less than 1",
        ),
        ("record CartPole-v1 --out demos --policy nowhere", "configuration 'nowhere/config.yaml' can't be read"),
        ("replay", "missing: "),
        ("replay absent", "demonstrations 'absent' can't be read: No such file or directory"),
        ("replay made --episode 2", "episode=2: demonstrations 'made' have 0 to 1"),
        ("replay made --mp4 x.avi", "mp4='x.avi': the file's name must end in .mp4"),
        ("replay made", "000000.episode has no pictures, and its observations are none; record it without"),
        ("demos inf made", "demos: unknown word 'inf'; did you mean 'info'?"),
        ("demos --out x", "demos needs a word before its options: info, import, export; see machina demos"),
        ("demos info file", "demonstrations 'file' can't be read: Not a directory"),
        ("demos export made", "missing: --out"),
        ("demos import x --out y", "missing: --env"),
        ("demos import x --out y --env CartPole-v1", "data set 'x': neither an HDF5 file, nor a data set's folder"),
        ("demos import file --out y --env CartPole-v1", "data set 'file' can't be read as HDF5: "),
        (
            "demos import file --out made --env Acrobot-v1",
            "demonstrations 'made': the environment of 000000.episode is",
        ),
    ],
)
def test_wrong_input_is_refused_in_one_line(machina: Command, arguments: str, said: str) -> None:
    (machina.folder / "file").write_text("hello")
    if "made" in arguments:
        machina.good("record", "CartPole-v1", "--out", "made", *QUICK)
    line = machina.refused(*arguments.split())
    assert line.startswith(said), line
    assert not (machina.folder / "demos").exists()


def test_demos_alone_lists_its_words(machina: Command) -> None:
    text = machina.good("demos")
    assert all(f"\n  {word} " in text for word in ("info", "import", "export"))
    assert machina.good("demos", "--help") == text
    assert "--sticky-actions" in machina.good("record", "pong", "--help")
    assert "--script" in machina.good("record", "--help")
