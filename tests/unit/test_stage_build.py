"""Building a stage: which locks it holds."""

import contextlib
from pathlib import Path

import pytest

from builder.digest import digest_file
from builder.record import BuildRecord, DiskRecord
from builder.reporter import Reporter
from builder.stage_build import _lock_role
from builder.store import DISK, Store

KEY = "a" * 64


class Silent(Reporter):
    """Tells nobody."""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def put_checkpoint(store: Store) -> None:
    with store.staging() as staged:
        disk = staged / DISK
        disk.write_bytes(b"disk")
        record = BuildRecord(
            key=KEY,
            variant="one",
            stage="base",
            created="2026-11-20T10:00:00Z",
            seconds=1.0,
            documents=(),
            parent=None,
            disk=DiskRecord(digest_file(disk), 4),
            role="tuning",
        )
        store.commit(staged, record)


def test_a_checkpoint_that_is_there_is_held_with_others(store):
    put_checkpoint(store)
    with contextlib.ExitStack() as stack:
        _lock_role(stack, KEY, store, Silent())
        assert store.is_locked(KEY), "nobody may prune it"
        with store.locked(KEY, shared=True):
            pass
    assert not store.is_locked(KEY)


def test_a_checkpoint_that_is_to_be_made_is_held_alone(store):
    with contextlib.ExitStack() as stack:
        _lock_role(stack, KEY, store, Silent())
        assert store.is_locked(KEY)
        with store.try_locked(KEY) as held:
            assert not held


def test_a_checkpoint_that_goes_while_its_lock_is_waited_for_is_to_be_made(store):
    put_checkpoint(store)

    class Pruned(Store):
        """Loses the checkpoint at the moment its lock is taken."""

        def locked(self, key, *, waiting=None, shared=False):
            self.kinds = [*getattr(self, "kinds", []), "shared" if shared else "alone"]
            self.discard(f"checkpoints/{key}")
            return super().locked(key, waiting=waiting, shared=shared)

    pruned = Pruned(Path(store.root))
    with contextlib.ExitStack() as stack:
        _lock_role(stack, KEY, pruned, Silent())
        assert pruned.kinds == ["shared", "alone"]
        assert store.is_locked(KEY)
    assert not store.is_locked(KEY)
