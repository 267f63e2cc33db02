"""What is tried again, how often, and what is not."""

import pytest

from builder.errors import Cause, HostError, ProvisionError, VaultbuildError
from builder.fetch.transient import PermanentError, TransientError
from builder.patience import Patience, passes, persevere

SYNC = Cause("mirror-in-sync", "The mirror is being renewed.", passes=True)


def failure(cause=SYNC):
    return ProvisionError("base: role x failed\n  more", stage="base", role="x", task=None,
                          cause=cause)  # fmt: skip


class Work:
    """Fails with what it is told to, then works."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


def tried(work, patience=None, clock=lambda: 0.0):
    said, slept = [], []
    patience = patience or Patience()
    return persevere(work, patience, said.append, sleep=slept.append, clock=clock), said, slept


def test_what_passes_by_itself_is_tried_again():
    work = Work(failure(), failure())
    result, said, slept = tried(work)
    assert (result, work.calls) == ("done", 3)
    assert len(slept) == 2
    assert said[0].startswith(
        "base: role x failed; The mirror is being renewed. [mirror-in-sync]; attempt 2 of 3 in "
    )


@pytest.mark.parametrize(
    "error",
    [
        failure(None),
        failure(Cause("package-unknown", "There is none.")),
        HostError("no packer"),
        PermanentError("404"),
    ],
)
def test_what_does_not_pass_is_told_at_once(error):
    work = Work(error)
    with pytest.raises(VaultbuildError) as caught:
        tried(work)
    assert caught.value is error
    assert work.calls == 1


def test_after_so_many_attempts_the_last_error_is_told():
    errors = [failure() for _ in range(3)]
    last = errors[-1]
    work = Work(*errors)
    with pytest.raises(ProvisionError) as caught:
        tried(work)
    assert caught.value is last
    assert work.calls == 3


def test_nobody_waits_for_longer_than_the_total():
    moments = iter([0.0, 0.0, 500.0, 950.0])
    work = Work(*(failure() for _ in range(9)))
    with pytest.raises(ProvisionError):
        tried(work, Patience(attempts=9, total=900), clock=lambda: next(moments, 950.0))
    assert work.calls == 3


def test_pauses_grow_and_are_never_nothing():
    patience = Patience(least=2, first=10, most=25)
    for failures, most in ((1, 10), (2, 20), (3, 25), (9, 25)):
        assert all(2 <= patience.pause(failures) <= most for _ in range(50))
    assert len({patience.pause(3) for _ in range(5)}) > 1


def test_a_download_that_failed_in_passing_passes():
    assert passes(TransientError("reset"))
    assert not passes(VaultbuildError("?"))


def test_an_error_that_is_nobody_s_affair_is_not_swallowed():
    with pytest.raises(KeyError):
        tried(Work(KeyError("bug")))
