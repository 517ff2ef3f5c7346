from pathlib import Path

import pytest
import torch
from race_game import parameters_of, stamping_policy

from machina.errors import RunFailedError, UserError
from machina.league.pool import Snapshot
from machina.league.snapshots import SnapshotStore, sha256


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "league")


def test_a_snapshot_shares_no_memory_with_the_policy_it_was_made_of(store: SnapshotStore) -> None:
    policy = stamping_policy(3)
    live = policy.values.data
    snapshot = store.save(400, 1600, live)
    assert snapshot == Snapshot("u000400", 400, 1600, sha256(live))
    live.add_(1)
    first, second = store.load(snapshot), store.load(snapshot)
    assert torch.equal(first, parameters_of(3))
    first.zero_()
    assert torch.equal(second, parameters_of(3))
    opponent = stamping_policy(0)
    opponent.load_parameters(second, done=1.0)
    opponent.values.data.add_(1)
    assert torch.equal(store.load(snapshot), parameters_of(3))


def test_every_flipped_byte_is_noticed(store: SnapshotStore) -> None:
    snapshot = store.save(1, 4, parameters_of(1))
    file = store.file(snapshot)
    content = file.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x11
        file.write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            store.load(snapshot)
        message = str(caught.value)
        assert str(file) in message
        assert message.endswith("; restore it from a copy")
        assert "\n" not in message
    file.write_bytes(content)
    assert torch.equal(store.load(snapshot), parameters_of(1))


@pytest.mark.parametrize("kept", [0, 7, 60])
def test_a_truncated_file_is_refused(store: SnapshotStore, kept: int) -> None:
    snapshot = store.save(1, 4, parameters_of(1))
    file = store.file(snapshot)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UserError, match="is damaged"):
        store.load(snapshot)


def test_another_snapshot_s_file_is_refused(store: SnapshotStore) -> None:
    one, two = store.save(1, 4, parameters_of(1)), store.save(2, 8, parameters_of(2))
    store.file(one).write_bytes(store.file(two).read_bytes())
    with pytest.raises(UserError, match="not those that were saved"):
        store.load(one)


def test_a_missing_file_is_named(store: SnapshotStore) -> None:
    snapshot = store.save(1, 4, parameters_of(1))
    store.file(snapshot).unlink()
    with pytest.raises(UserError, match=r"u000001-.*can't be read: No such file"):
        store.load(snapshot)


def test_nothing_is_overwritten(store: SnapshotStore) -> None:
    # The run was killed after it made u000007, continues from before it and makes another one.
    before = store.save(7, 28, parameters_of(1))
    written = store.file(before).stat().st_mtime_ns
    after = store.save(7, 28, parameters_of(2))
    assert store.save(7, 28, parameters_of(1)) == before
    assert store.file(before).stat().st_mtime_ns == written
    assert torch.equal(store.load(before), parameters_of(1))
    assert torch.equal(store.load(after), parameters_of(2))


def test_a_damaged_file_is_written_again(store: SnapshotStore) -> None:
    """A run that continues from before it could never pass the update at which it made it."""
    snapshot = store.save(7, 28, parameters_of(1))
    store.file(snapshot).write_bytes(b"\0" * 100)
    assert store.save(7, 28, parameters_of(1)) == snapshot
    assert torch.equal(store.load(snapshot), parameters_of(1))


def test_a_folder_that_can_not_be_made_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "league").write_text("a file")
    with pytest.raises(RunFailedError, match="could not be written"):
        SnapshotStore(tmp_path / "league").save(1, 4, parameters_of(1))


def test_what_is_no_flat_float32_vector_is_refused(store: SnapshotStore) -> None:
    with pytest.raises(ValueError, match="not a flat float32 vector"):
        store.save(1, 4, torch.zeros(2, 2))
    with pytest.raises(ValueError, match="not a flat float32 vector"):
        store.save(1, 4, torch.zeros(2, dtype=torch.float64))
