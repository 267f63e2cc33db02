"""From the gateway's journal to the network lock, and back from its file."""

import json

import pytest

from builder import network
from builder.errors import Cause, ProvisionError
from builder.events import Event
from builder.network import Entry, Handed, NetworkLock, Refused, Traffic, Tunnel

DEB = "http://mirror.example/debian/pool/main/h/hello/hello_2.10-3_amd64.deb"


def handed(time=1.0, url=DEB, sha256="aa", origin="upstream"):
    return Entry("handed", time, cache="apt", url=url, sha256=sha256, bytes=5, kind="file",
                 origin=origin)  # fmt: skip


def started(time, role):
    return Event("role_started", time, "base", role)


def lock(*journal, **said):
    return network.lock_of(journal, mode="caches", offline=False, **said)


def test_the_role_that_ran_when_something_was_handed_out_is_the_one_that_asked():
    events = [started(10, "first"), started(20, "second")]
    found = lock(handed(9, "a"), handed(10, "b"), handed(19.9, "c"), handed(20, "d"), events=events)
    assert [one.role for one in found.handed] == [None, "first", "first", "second"]


def test_a_thing_is_named_once_as_it_came_first():
    found = lock(handed(1), handed(2, origin="cache"))
    assert [one.origin for one in found.handed] == ["upstream"]


def test_an_index_that_moved_meanwhile_is_named_as_it_was_each_time():
    found = lock(handed(1, "index", "aa"), handed(2, "index", "bb"))
    assert [one.sha256 for one in found.handed] == ["aa", "bb"]


def test_a_run_that_goes_on_keeps_what_was_handed_out_before():
    before = NetworkLock(
        "caches", offline=True, handed=(Handed("apt", "x", "cc", 1, "file", "cache", "early"),),
        refused=(Refused("a:1", "early", 1),),
    )  # fmt: skip
    found = lock(handed(30), events=[started(20, "late")], before=before)
    assert [(one.url, one.role) for one in found.handed] == [("x", "early"), (DEB, "late")]
    assert found.offline
    assert found.refused == before.refused


def test_refusals_and_tunnels_are_counted_by_role_and_address():
    journal = [
        Entry("refused", 11, address="files.example:443"),
        Entry("refused", 12, address="files.example:443"),
        Entry("refused", 21, address="files.example:443"),
        Entry("tunnel", 22, address="git.example:443", sent=10, bytes=1000),
        Entry("tunnel", 23, address="git.example:443", sent=1, bytes=2),
    ]
    found = lock(*journal, events=[started(10, "one"), started(20, "two")])
    assert found.refused == (
        Refused("files.example:443", "one", 2),
        Refused("files.example:443", "two", 1),
    )
    assert found.tunnels == (Tunnel("git.example:443", "two", 11, 1002),)


def test_only_what_was_refused_to_this_role_is_its_reason():
    journal = [
        Entry("refused", 9, address="before:80"),
        Entry("refused", 10, address="now:443"),
        Entry("refused", 11, address="now:443"),
        handed(12),
    ]
    assert network.refused_since(journal, 10) == ("now:443",)


def test_a_lock_is_read_as_it_was_written(tmp_path):
    whole = NetworkLock(
        "hosts", offline=True, handed=(Handed("apt", DEB, "aa", 5, "file", "stale", "one"),),
        refused=(Refused("a:1", None, 2),), tunnels=(Tunnel("b:2", "one", 3, 4),),
    )  # fmt: skip
    path = tmp_path / network.LOCK
    network.write(path, whole)
    assert network.read(path) == whole
    assert json.loads(path.read_text())["handed"][0]["from"] == "stale"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "mode": "caches"}',
             '{"schema": 1, "mode": "caches", "offline": false, "handed": [{"url": "x"}]}']
)  # fmt: skip
def test_what_is_no_lock_is_none(tmp_path, text):
    path = tmp_path / network.LOCK
    path.write_text(text)
    assert network.read(path) is None
    assert network.read(tmp_path / "nothing") is None


def test_a_line_that_is_not_finished_does_not_count(tmp_path):
    path = tmp_path / network.JOURNAL
    path.write_text('{"what": "handed", "time": 1.0, "url": "a"}\n{"what": "han')
    assert [each.url for each in network.read_journal(path)] == ["a"]
    assert network.read_journal(tmp_path / "nothing") == ()


def test_a_release_has_what_all_its_stages_got():
    one = NetworkLock("caches", handed=(Handed("apt", "a", "1", 1, "file", "cache"),))
    two = NetworkLock("open", handed=(*one.handed, Handed("apt", "b", "2", 1, "file", "cache")))
    found = network.merge([one, two])
    assert [each.url for each in found.handed] == ["a", "b"]
    assert found.mode == "open"
    assert network.merge([one, one]).mode == "caches"


def test_traffic_of_stages_adds_up_and_unknown_time_stays_unknown():
    one, two = Traffic(1, 2, 3, 4, 5.0), Traffic(1, 1, 1, 1, None)
    assert one + two == Traffic(2, 3, 4, 5, 5.0)
    assert two + two == Traffic(2, 2, 2, 2, None)
    assert Traffic.from_json({"mode": "caches"}) == Traffic()


# --- what did not come ----------------------------------------------------------------------------


def failed(time=1.0, url=DEB):
    return Entry("failed", time, cache="apt", url=url, status=503)


@pytest.mark.parametrize(
    ("journal", "broken"),
    [
        ([failed()], (DEB,)),
        ([failed(), failed(2)], (DEB,)),
        ([failed(), handed(2)], ()),
        ([handed(1), failed(2)], (DEB,)),
        ([failed(), handed(2, "other")], (DEB,)),
        ([failed(0.5)], ()),
    ],
)
def test_what_came_in_the_end_is_not_broken(journal, broken):
    assert network.broken_since(journal, 1.0) == broken


def blamed(*journal, cause=None):
    error = ProvisionError("failed", stage="base", role="r", task=None)
    error.cause = cause
    network.blame(error, journal, stage="base", role="r")
    return error


def test_a_role_that_failed_of_a_broken_download_is_worth_another_try():
    """pip says "hash mismatch" of half a file, and "no such project" where nobody answered."""
    error = blamed(failed(), cause=Cause("pip-hash-mismatch", "wrong"))
    assert (error.cause.rule, error.cause.passes) == ("download-broken", True)
    assert DEB in error.cause.sentence
    assert "vaultbuild cache status" in error.hint


def test_what_is_known_to_pass_keeps_its_cause():
    assert blamed(failed(), cause=Cause("apt-lock", "wait", passes=True)).cause.rule == "apt-lock"


def test_what_was_refused_is_said_before_what_broke():
    refused = Entry("refused", 1, address="x.example:443")
    assert blamed(failed(), refused).cause.rule == "network-refused"


def test_a_role_that_got_everything_has_its_own_reason():
    assert blamed(failed(), handed(2)).cause is None


@pytest.mark.parametrize(
    "wrong", [{"bytes": "3"}, {"url": 1}, {"sha256": None}, {"role": 1}, {"more": 1}]
)
def test_a_lock_whose_entries_are_no_entries_is_none(wrong):
    document = lock(handed()).to_json()
    document["handed"][0] |= wrong
    with pytest.raises(ValueError, match="incomplete"):
        NetworkLock.from_json(document)
