"""Building a stage: which locks it holds, and where it begins."""

import contextlib
from pathlib import Path

import pytest

from builder.digest import digest_file
from builder.inputs import StageInputs
from builder.plan import Step
from builder.reasons import Reason
from builder.record import BuildRecord, DiskRecord
from builder.reporter import Reporter
from builder.stage_build import _anew, _discard_checkpoints, _lock_role, _start
from builder.store import DISK, Image, Store

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


# --- where it begins ------------------------------------------------------------------------------

INPUTS = StageInputs(
    "base",
    ({"kind": "stage"}, {"kind": "role", "role": "tuning"}, {"kind": "role", "role": "seal"}),
    ("b" * 64, KEY, "c" * 64),
)


def begun(store, *reasons, again=False) -> int:
    step = Step("base", "build", INPUTS.key, reasons, (), verify=True)
    parent = Image(store.root, next(iter(store.entries())).record)
    return _start(INPUTS, parent, store, anew=_anew(step, again=again)).index


def test_it_begins_after_its_checkpoints(store):
    put_checkpoint(store)
    assert begun(store, Reason("never-built", "base")) == 1


@pytest.mark.parametrize("kind", ["forced", "upstream"])
def test_again_means_from_the_first_role(store, kind):
    put_checkpoint(store)
    assert begun(store, Reason(kind, "openssl", "1", "2")) == 0


def test_a_second_attempt_goes_on_after_what_the_first_one_made(store):
    put_checkpoint(store)
    assert begun(store, Reason("upstream", "openssl", "1", "2"), again=True) == 1
    assert begun(store, Reason("never-built", "base"), again=True) == 1
    # Nobody knows whether this one is of the first attempt.
    assert begun(store, Reason("forced", "base"), again=True) == 0


def test_checkpoints_on_what_moved_upstream_are_removed(store):
    """Else a later run would go on from old packages and call it the new image."""
    put_checkpoint(store)
    _discard_checkpoints(INPUTS, store, Silent())
    assert store.checkpoint(KEY) is None
    assert not store.is_locked(KEY)
