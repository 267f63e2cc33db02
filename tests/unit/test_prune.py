"""What of the store stays and what goes: the decision, in tables. Nothing here has a disk."""

from dataclasses import replace

import pytest

from builder import prune
from builder.holdings import Entry
from builder.prune import DAY, Rules, decide

NOW = 1_000 * DAY
MIB = 1 << 20


def image(name: str, below: str | None = None, *, day: float = 1, stage: str = "final", **more):
    """An image made on a day, on an image or (with ``@``) a checkpoint."""
    return _layer("image", name, below, day, stage, more)


def checkpoint(name: str, below: str, *, day: float = 1, stage: str = "final", **more):
    return _layer("checkpoint", name, below, day, stage, {"role": "role", **more})


def alone(kind: str, name: str, *, age: float, **more):
    return Entry(f"{kind}/{name}", kind, MIB, NOW - age * DAY, **more)


def place(name: str) -> str:
    return f"checkpoints/{name[1:]}" if name.startswith("@") else f"images/{name}"


def _layer(kind, name, below, day, stage, more):
    values = {
        "place": f"{kind}s/{name}",
        "kind": kind,
        "bytes": MIB,
        "created": day * DAY,
        "used": day * DAY,
        "key": name,
        "variant": "one",
        "stage": stage,
        "below": place(below) if below else None,
    }
    return Entry(**{**values, **more})


def reasons(entries, **rules) -> dict[str, tuple[str, str]]:
    """By place, what happens and why."""
    found = decide(entries, Rules(**{"now": NOW, "current": {}, **rules}))
    assert sorted(c.entry.place for c in found) == sorted(e.place for e in entries)
    return {choice.entry.place: (choice.action, choice.reason) for choice in found}


def gone(entries, **rules) -> list[str]:
    """What goes, in its order, without the folder."""
    found = decide(entries, Rules(**{"now": NOW, "current": {}, **rules}))
    return [c.entry.place.rpartition("/")[2] for c in found if c.action == "remove"]


BASE = image("base", stage="base")

# --- the decision: images -------------------------------------------------------------------------


def test_nothing_in_nothing_out():
    assert decide((), Rules(now=NOW)) == ()


@pytest.mark.parametrize(
    ("keep", "wanted"),
    [(1, ["a", "b", "c"]), (2, ["a", "b"]), (3, ["a"]), (4, []), (9, [])],
)
def test_the_newest_images_of_a_stage_stay(keep, wanted):
    images = [image(name, "base", day=day) for day, name in enumerate("abcd", 1)]
    assert gone([BASE, *images], keep=keep) == wanted


def test_each_stage_of_each_variant_is_counted_for_itself():
    entries = [
        BASE,
        image("a", "base", day=1),
        image("b", "base", day=2),
        image("other", "base", day=1, variant="two"),
        image("drivers", "base", day=1, stage="drivers"),
    ]
    assert gone(entries, keep=1) == ["a"]


def test_what_something_kept_stands_on_stays():
    old = image("old", stage="base", day=1)
    new = image("new", stage="base", day=5)
    entries = [old, new, image("a", "old", day=2)]
    told = reasons(entries, keep=1)
    assert told["images/old"] == ("keep", "image a of final stands on it")
    assert told["images/new"] == ("keep", "the last that was made of base")
    assert told["images/a"] == ("keep", "the last that was made of final")


def test_a_whole_old_lineage_goes_the_furthest_first():
    old = [
        image("source", stage="source", day=1),
        image("base", "source", stage="base", day=2),
        checkpoint("one", "base", day=3),
        checkpoint("two", "@one", day=4),
        image("final", "@two", day=5),
    ]
    new = [
        image("source2", stage="source", day=11),
        image("base2", "source2", stage="base", day=12),
        image("final2", "base2", day=15),
    ]
    assert gone([*old, *new], keep=1) == ["final", "two", "one", "base", "source"]


def test_what_is_current_stays_though_it_is_old():
    entries = [BASE, *(image(name, "base", day=day) for day, name in enumerate("abc", 1))]
    current = {"images/a": "images/a"}
    assert gone(entries, keep=1, current=current) == ["b"]
    assert reasons(entries, keep=1, current=current)["images/a"] == ("keep", "current")
    assert gone(entries, keep=1, last=["images/b"]) == ["a"]


def test_what_is_in_use_stays_with_its_chain():
    entries = [
        BASE,
        checkpoint("one", "base", day=1),
        image("a", "@one", day=2, held=True),
        image("b", "base", day=3),
    ]
    told = reasons(entries, keep=1)
    assert told["images/a"] == ("keep", "in use")
    assert told["checkpoints/one"] == ("keep", "image a of final stands on it")


def test_what_was_used_lately_stays():
    entries = [
        BASE,
        image("a", "base", day=1),
        replace(image("b", "base", day=2), used=NOW - 3 * DAY),
        image("c", "base", day=3),
    ]
    assert gone(entries, keep=1, older_than=7 * DAY) == ["a"]
    assert gone(entries, keep=1, older_than=2 * DAY) == ["a", "b"]
    assert reasons(entries, keep=1, older_than=7 * DAY)["images/b"][1] == "used 3 days ago"


# --- the decision: checkpoints --------------------------------------------------------------------


def test_checkpoints_that_nothing_needs_go_the_oldest_first():
    entries = [
        BASE,
        checkpoint("old", "base", day=2),
        checkpoint("older", "base", day=1),
        image("final", "base", day=3),
    ]
    assert gone(entries) == ["older", "old"]
    assert "no image that is kept" in reasons(entries)["checkpoints/old"][1]


def test_checkpoints_of_an_image_that_is_kept_stay():
    entries = [
        BASE,
        checkpoint("one", "base", day=1),
        checkpoint("two", "@one", day=2),
        image("final", "@two", day=3),
    ]
    assert gone(entries) == []


def test_checkpoints_go_before_images():
    entries = [
        BASE,
        image("a", "base", day=1),
        checkpoint("one", "base", day=2),
        image("b", "base", day=3),
    ]
    assert gone(entries, keep=1) == ["one", "a"]


def test_what_an_attempt_that_failed_left_stays():
    entries = [
        BASE,
        checkpoint("stale", "base", day=1),
        image("final", "base", day=2),
        checkpoint("first", "base", day=3),
        checkpoint("one", "base", day=4),
        checkpoint("two", "@one", day=4),
    ]
    told = reasons(entries)
    assert gone(entries) == ["stale"]
    assert told["checkpoints/two"] == ("keep", "the next run of final may go on from it")
    assert told["checkpoints/one"] == ("keep", "checkpoint two of final stands on it")
    assert told["checkpoints/first"] == ("keep", "newer than the last image of final")
    assert gone(entries, max_bytes=0) == ["stale", "first"], "the newest attempt stays for ever"


def test_a_stage_that_never_came_to_an_image_keeps_its_checkpoints():
    assert gone([BASE, checkpoint("one", "base"), checkpoint("two", "@one", day=2)]) == []


@pytest.mark.parametrize(
    ("built", "reason"),
    [
        (False, "the next run of final goes on from it"),
        (True, "an edit of a later role goes on from it"),
    ],
)
def test_checkpoints_of_the_roles_as_they_are_stay(built, reason):
    entries = [
        BASE,
        checkpoint("one", "base", day=1),
        checkpoint("other", "base", day=1),
        image("old", "base", day=2),
    ]
    entries += [image("new", "base", day=3)] if built else []
    current = {"checkpoints/one": "images/new", "images/new": "images/new"}
    assert gone(entries, current=current) == ["other"]
    assert reasons(entries, current=current)["checkpoints/one"] == ("keep", reason)
    gone_when_full = gone(entries, current=current, max_bytes=0)
    assert ("one" in gone_when_full) == built


def test_where_nobody_knows_what_is_current_checkpoints_stay():
    entries = [BASE, checkpoint("one", "base", day=1), image("final", "base", day=2)]
    assert reasons(entries, current=None)["checkpoints/one"][0] == "keep"
    assert gone(entries, current=None, max_bytes=0) == ["one"], "unless there is no room"


# --- the decision: a size -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "wanted"),
    [(6, []), (5, ["a"]), (4, ["a", "b"]), (3, ["a", "b", "c"]), (2, ["a", "b", "c", "d"])],
)
def test_the_oldest_use_goes_until_it_fits(room, wanted):
    images = [image(name, "base", day=day) for day, name in enumerate("abcde", 1)]
    assert gone([BASE, *images], keep=9, max_bytes=room * MIB) == wanted


def test_use_counts_and_not_age():
    entries = [
        BASE,
        replace(image("a", "base", day=1), used=NOW),
        image("b", "base", day=2),
        image("c", "base", day=3),
    ]
    assert gone(entries, max_bytes=3 * MIB) == ["b"]


def test_the_last_image_and_its_chain_stay_though_it_does_not_fit():
    entries = [BASE, checkpoint("one", "base"), image("a", "@one", day=2)]
    choices = decide(entries, Rules(now=NOW, max_bytes=MIB))
    assert prune.bytes_of(choices, "keep") == 3 * MIB
    assert prune.bytes_of(choices, "remove") == 0


def test_checkpoints_go_when_their_image_went_for_room():
    entries = [
        BASE,
        checkpoint("one", "base", day=1),
        image("a", "@one", day=2),
        image("b", "base", day=3),
    ]
    assert gone(entries, max_bytes=2 * MIB) == ["a", "one"]


def test_evidence_makes_room_first():
    entries = [
        BASE,
        image("a", "base", day=1),
        image("b", "base", day=2),
        alone("quarantine", "x", age=1),
    ]
    assert gone(entries, max_bytes=3 * MIB) == ["x"]


# --- the decision: what stands alone --------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "action", "reason"),
    [
        (alone("logs", "a", age=31), "remove", "older than 30 days"),
        (alone("logs", "a", age=29), "keep", "29 days old"),
        (alone("modules", "a.tar", age=31), "remove", "older than 30 days"),
        (alone("modules", "a.tar", age=3), "keep", "3 days old"),
        (alone("quarantine", "a", age=31), "remove", "older than 30 days"),
        (alone("quarantine", "a", age=1), "keep", "1 day old"),
        (alone("failed", "a", age=8), "remove", "older than 7 days"),
        (alone("failed", "a", age=8, held=True), "keep", "in use"),
        (alone("failed", "a", age=0.5), "keep", "12 hours old"),
        (alone("staging", "a", age=0), "remove", "abandoned: its run is gone"),
        (alone("staging", "a", age=90, held=True), "keep", "in use"),
        (alone("verdicts", "a", age=0, key="nosuch"), "remove", "its image is gone"),
        (alone("verdicts", "a", age=90, key="base"), "keep", "its image is kept"),
        (
            alone("broken", "a", age=31, broken="no record"),
            "remove",
            "does not count (no record), older than 30 days",
        ),
        (
            alone("broken", "a", age=2, broken="no record"),
            "keep",
            "does not count (no record), 2 days old",
        ),
    ],
)
def test_what_stands_alone_goes_with_its_age(entry, action, reason):
    assert reasons([BASE, entry])[entry.place] == (action, reason)


def test_verdicts_go_after_their_image():
    entries = [
        BASE,
        image("a", "base", day=1),
        image("b", "base", day=2),
        alone("verdicts", "va", age=0, key="a"),
        alone("verdicts", "vb", age=0, key="b"),
    ]
    assert gone(entries, keep=1) == ["a", "va"]
    assert gone(entries, keep=2, max_bytes=0)[:1] == ["a"]
    assert "va" in gone(entries, keep=2, max_bytes=2 * MIB)


@pytest.mark.parametrize(("age", "wanted"), [(1, []), (8, ["disk", "one"])])
def test_what_a_kept_failed_disk_stands_on_stays_as_long(age, wanted):
    entries = [
        BASE,
        checkpoint("one", "base", day=1),
        image("final", "base", day=2),
        alone("failed", "disk", age=age, below="checkpoints/one"),
    ]
    assert gone(entries) == wanted
