"""Downloads that run side by side: their order, the first error, and the end of the others."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from builder.caches.shelf import side_by_side


def test_they_run_at_once_and_come_back_in_order():
    both = threading.Barrier(2)

    def work(name, told):
        both.wait(10)  # alone, nobody gets past this
        told(len(name))
        return name.upper()

    heard = []
    assert side_by_side(work, ["one", "three"], heard.append) == ["ONE", "THREE"]
    assert sorted(heard) == [3, 5]


def test_nobody_has_to_hear_of_it():
    assert side_by_side(lambda item, told: told(item), [1], None) == [None]


@pytest.mark.parametrize("first", ["bad", "good"])
def test_one_that_fails_ends_the_others(first):
    begun, ended = threading.Event(), threading.Event()

    def work(name, told):
        if name == "bad":
            assert begun.wait(10)
            raise ValueError("no such file")
        begun.set()
        try:
            for _ in range(1000):
                told(1)
                time.sleep(0.01)
        except CancelledError:
            ended.set()
            raise

    with pytest.raises(ValueError, match="no such file"):
        side_by_side(work, sorted(["bad", "good"], key=lambda name: name != first), None)
    assert ended.is_set()


def test_what_has_not_begun_never_does():
    done = []

    def work(number, _):
        done.append(number)
        if number == 0:
            raise ValueError("the first")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="the first"):
        side_by_side(work, range(100), None)
    assert len(done) < 100
