"""apt-get through the gateway and apt-cacher-ng, while the archive fails in every way."""

from __future__ import annotations

import threading

import pytest

pytestmark = pytest.mark.integration

FAULTS = {
    "reset": lambda upstream, path: upstream.reset(path, times=1),
    "broken": lambda upstream, path: upstream.reset(path, after=300, times=1),
    "truncated": lambda upstream, path: upstream.truncate(path, after=300, times=1),
    "busy": lambda upstream, path: upstream.status(path, 503, times=1),
    "waiting": lambda upstream, path: upstream.status(path, 503, retry_after=1, times=1),
    "wrong": lambda upstream, path: upstream.corrupt(path, times=1),
    "hanging": lambda upstream, path: upstream.hang(path, after=300, times=1),
    "slow": lambda upstream, path: upstream.drip(path, count=100_000, seconds=0.05, times=1),
}


# --- what passes ----------------------------------------------------------------------------------


def test_packages_arrive_whatever_happens_to_them_once(desk, archive):
    archive.publish(**dict.fromkeys(FAULTS, "1.0"))
    for name, fault in FAULTS.items():
        fault(archive.upstream, archive.deb(name))
    with desk.guest() as guest:
        guest.well(*FAULTS)
    for name in FAULTS:
        assert guest.handed(archive.deb(name)), name
    # What the mirror gave wrongly is not what the next one gets.
    with desk.guest("next") as other:
        other.well(*FAULTS)
    for name in FAULTS:
        assert other.handed(archive.deb(name)) == ["cache"], name


@pytest.mark.parametrize("what", ["release", "list"])
def test_indexes_arrive_whatever_happens_to_them_once(desk, archive, what):
    with desk.supplies() as supplies:
        for number, name in enumerate(("reset", "broken", "busy", "wrong", "hanging", "slow")):
            archive.publish(alpha=f"1.{number}")
            path = getattr(archive, what)
            FAULTS[name](archive.upstream, path)
            with desk.behind(supplies, name) as guest:
                first = guest.update()
                if (what, name) == ("release", "wrong"):
                    assert (first.status, first.why, first.passes) == (
                        100, "release-damaged", True,
                    )  # fmt: skip
                else:
                    assert first.status == 0, first.output
                    assert guest.handed(path), name
                guest.well("alpha")


def test_a_release_is_not_fetched_whole_again_once_it_was_good(desk, archive):
    with desk.guest() as guest:
        guest.well()
    archive.upstream.requests.clear()
    with desk.guest("next") as guest:
        guest.well()
    (asked,) = archive.upstream.asked(archive.release)
    assert asked.sent == 1


def test_a_release_that_led_to_nothing_is_fetched_whole_once(desk, archive):
    """A guest that has the lists already asks for nothing else."""
    with desk.guest() as guest:
        guest.well()
        archive.publish()  # with another date, and nothing else
        for _ in range(3):
            guest.well()
        asked = archive.upstream.asked(archive.release)
    assert [each.sent > 1 for each in asked] == [True, True, True, False]
    assert desk.quarantined == []


# --- what does not --------------------------------------------------------------------------------


def test_a_package_that_is_gone_is_told(desk, archive):
    archive.upstream.remove(archive.deb("alpha"))
    with desk.guest() as guest:
        assert guest.update().status == 0
        ran = guest.download("alpha")
    assert (ran.status, ran.why, ran.passes) == (100, "package-file-gone", False)
    assert [each for each in guest.wrote("handed") if each.url.endswith(".deb")] == []


def test_a_package_that_stays_wrong_is_told_and_not_handed_out(desk, archive):
    archive.upstream.corrupt(archive.deb("alpha"))
    with desk.guest() as guest:
        guest.update()
        ran = guest.download("alpha")
    assert (ran.status, ran.why, ran.passes) == (100, "apt-connection-lost", True)
    assert [each for each in guest.wrote("handed") if each.url.endswith(".deb")] == []


def test_an_archive_that_is_down_is_told(desk, archive):
    archive.upstream.stop()
    with desk.guest() as guest:
        ran = guest.update()
    assert (ran.status, ran.why, ran.passes) == (100, "apt-cache-error", True)
    assert guest.wrote("handed") == []


# --- with a warm cache ----------------------------------------------------------------------------


def test_without_its_archive_a_guest_gets_what_is_kept(desk, archive):
    with desk.guest() as guest:
        guest.well("alpha")
    archive.upstream.stop()
    with desk.guest("next") as guest:
        guest.well("alpha")
        assert guest.handed(archive.release) == ["stale"]
        assert guest.handed(archive.deb("alpha")) == ["cache"]
        ran = guest.download("beta")
        assert (ran.status, ran.why, ran.passes) == (100, "apt-cache-error", True)
    assert "going on with what the cache has" in desk.said


@pytest.mark.parametrize("status", [404, 503])
def test_an_archive_in_trouble_does_not_spoil_what_is_kept(desk, archive, status):
    with desk.guest() as guest:
        guest.well("alpha")
    archive.upstream.status("*", status)
    with desk.guest("next") as guest:
        if status == 404:
            assert guest.update().status == 100
        else:
            guest.well("alpha")
    with desk.guest("offline", offline=True) as guest:
        guest.well("alpha")
    archive.upstream.heal()
    with desk.guest("last") as guest:
        guest.well("alpha", "beta")


def test_offline_what_is_kept_is_enough_and_what_is_not_is_named(desk, archive):
    with desk.guest() as guest:
        guest.well("alpha")
    archive.upstream.requests.clear()
    with desk.guest("next", offline=True) as guest:
        guest.well("alpha")
        assert guest.handed(archive.deb("alpha")) == ["cache"]
        assert guest.handed(archive.release) == ["cache"]
        assert guest.download("beta").status == 100
    assert {each.url for each in guest.wrote("missing")} == {
        archive.upstream.url + archive.deb("beta")
    }
    assert archive.upstream.requests == []


def test_what_was_damaged_in_the_cache_is_put_aside_and_fetched_again(desk, archive):
    with desk.guest() as guest:
        guest.well("alpha")
    paths = archive.release, archive.list, archive.deb("alpha")
    for path in paths:
        data = archive.upstream.files[path].data
        desk.kept(path).write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    with desk.guest("next") as guest:
        guest.well("alpha")
    for path in paths:
        assert guest.handed(path) == ["upstream"]
        name = path.rpartition("/")[2]
        assert {name, f"{name}.head"} <= set(desk.quarantined)
        assert f"{name} in the apt cache is damaged" in desk.said
        assert desk.kept(path).read_bytes() == archive.upstream.files[path].data


def test_a_package_is_judged_by_its_list_where_nobody_remembers_it(desk, archive):
    with desk.guest() as guest:
        guest.well("alpha")
    (desk.var / "index/ledger.jsonl").unlink()
    kept = desk.kept(archive.deb("alpha"))
    kept.write_bytes(b"X" + kept.read_bytes()[1:])
    with desk.guest("next") as guest:
        guest.well("alpha")
    assert guest.handed(archive.deb("alpha")) == ["upstream"]


def test_a_package_that_an_archive_replaced_in_its_place_is_no_damage(desk, archive):
    with desk.guest() as guest:
        guest.well("alpha")
    path = archive.deb("alpha")
    other = archive.replace("alpha")
    desk.kept(path).unlink()
    with desk.guest("next") as guest:
        assert guest.update().status == 0
        assert guest.download("alpha").status == 0
        assert guest.got("alpha") == other
    with desk.guest("last") as guest:
        guest.update()
        assert guest.download("alpha").status == 0
        assert guest.handed(path) == ["cache"]
    assert desk.quarantined == []


# --- more than one --------------------------------------------------------------------------------


def test_two_runs_at_once_fetch_a_package_once(desk, archive):
    path = archive.deb("alpha")
    archive.upstream.drip(path, count=60_000, seconds=0.05)
    archive.upstream.drip(archive.list, count=20, seconds=0.05)

    def run(name):
        with desk.guest(name) as guest:
            guest.well("alpha")
            found.append(guest.handed(path))

    found = []
    runs = [threading.Thread(target=run, args=(name,)) for name in ("one", "two")]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert found == [["upstream"], ["upstream"]] or sorted(found) == [["cache"], ["upstream"]]
    assert desk.quarantined == []
    for each in (path, archive.list):
        # In the same millisecond apt-cacher-ng may begin twice, and drops one of them.
        size = len(archive.upstream.files[each].data)
        assert [size for asked in archive.upstream.asked(each) if asked.sent == size] == [size]


@pytest.fixture
def second(desk, archive, mirror_of):
    """Another mirror of the archive, which the project names."""
    found = mirror_of(archive)
    port = found.address.rpartition(":")[2]
    desk.configure("AllowUserPorts: 80", f"AllowUserPorts: {port} 80")
    pipeline = desk.folder / "stages/pipeline.yml"
    names = f'{{"{archive.url}/": ["{found.url}/copy/"]}}'
    pipeline.write_text(f"{pipeline.read_text()}caches: {{apt: {{mirrors: {names}}}}}\n")
    return found


def test_another_mirror_answers_under_the_name_of_the_first(desk, archive, second):
    archive.upstream.stop()
    with desk.guest() as guest:
        guest.well("alpha")
    assert guest.handed(archive.deb("alpha")) == ["upstream"]
    assert all(each.url.startswith(archive.url) for each in guest.wrote("handed"))
    assert f"going on with {second.url}" in desk.said


def test_a_mirror_that_is_down_is_left_alone_by_all_runs(desk, archive, second):
    archive.upstream.status("*", 503)
    with desk.supplies() as one, desk.supplies() as two:
        with desk.behind(one, "one") as guest:
            guest.well("alpha")
        asked = len(archive.upstream.requests)
        with desk.behind(two, "two") as guest:
            guest.well("beta")
    assert len(archive.upstream.requests) == asked
    assert [each.state for each in desk.breakers] == ["open"]
