"""How doctor judges the room that is left: by what was measured, else by a guess."""

import pytest

from builder.doctor import store as doctor_store

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "level"), [(2, "fail"), (4, "warn"), (6, "ok")], ids=["none", "tight", "ample"]
)
def test_room_is_lacking_below_what_was_measured(free, level):
    last = {"source": 1 * GIB, "base": 2 * GIB}
    found, why = doctor_store.room(free * GIB, last, 99 * GIB)
    assert found == level
    assert "below 6.0 GiB it warns, below 3.0 GiB it fails" in why


@pytest.mark.parametrize(("free", "level"), [(0.5, "fail"), (2, "warn"), (39, "warn"), (41, "ok")])
def test_a_guess_is_no_failure_where_a_build_would_begin(free, level):
    found, why = doctor_store.room(int(free * GIB), {}, 20 * GIB)
    assert found == level
    assert "a guess by resources.disk: 40.0 GiB with a release" in why
    assert "below 40.0 GiB it warns, below 1.0 GiB it fails" in why
