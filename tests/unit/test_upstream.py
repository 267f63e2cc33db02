"""Asking upstream about images that exist in the store only as far as this needs."""

import json

import pytest

from builder import upstream
from builder.digest import digest_file
from builder.errors import HostError
from builder.fetch.transient import PermanentError
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK
from builder.upstream.moved import Moved, Unknown

SUITE = "http://mirror.example/debian/dists/trixie"
EXTRA = "http://extra.example/repo"
MAIN = "main/binary-amd64"
IMAGE = "http://images.example/two.qcow2"
SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Answered:
    def __init__(self, body=b"", headers=None):
        self.body, self.headers = body, headers or {}


class Web:
    """Stands in for a fetcher: what is not among the pages is not there."""

    def __init__(self, pages):
        self.pages, self.heads, self.asked = pages, {}, []

    def read(self, url, *, limit=0):
        self.asked.append(url)
        if url not in self.pages:
            raise PermanentError(f"there is no {url}")
        return Answered(self.pages[url])

    def head(self, url):
        self.asked.append(url)
        return Answered(headers=self.heads[url])


class Hub:
    def commit_of(self, repo, revision):
        assert (repo, revision) == ("org/name", "main")
        return "2" * 40


class Place:
    """A project with images, and an upstream that answers from ``web.pages``."""

    def __init__(self, folder, web):
        self.folder, self.web, self.variant = folder, web, "one"
        self.resolved = {}

    @property
    def project(self):
        return Project(self.folder, variant=self.variant, engine="nspawn")

    def image(self, stage, packages, handed, *, disk=b"disk"):
        """Put an image of ``stage`` into the store, or of ``source``."""
        project = self.project
        lineage = project.inputs("final")
        number = {"source": 0, "base": 0, "final": 1}[stage]
        inputs = lineage[number]
        key = inputs.keys[0] if stage == "source" else inputs.key
        below = [lineage[0].keys[0], lineage[0].key][number] if stage != "source" else None
        with project.store.staging() as staged:
            (staged / DISK).write_bytes(disk)
            if handed is not None:
                lock = {"schema": 1, "mode": "caches", "offline": False, "handed": handed}
                (staged / "network.json").write_text(json.dumps(lock))
            record = BuildRecord(
                key=key,
                variant=self.variant,
                stage=stage,
                created="2026-11-20T10:00:00Z",
                seconds=1.0,
                documents=inputs.documents[:1] if stage == "source" else inputs.documents,
                parent=below,
                disk=DiskRecord(digest_file(staged / DISK), len(disk)),
                packages={"dpkg": packages} if packages else {},
            )
            project.store.commit(staged, record, replace=True)

    def ask(self, **other):
        project = self.project
        sources = upstream.Sources(
            self.web,
            self.web,
            lambda pair: self.resolved[pair.lock.name],
            Hub,
        )
        inputs = project.inputs("final")
        return upstream.refresh(project, inputs, sources=lambda: sources, **other)

    def answer(self, **other):
        found = self.ask(**other)
        return [(one.stage, one.what, one.before, one.after) for one in found.moved]


@pytest.fixture
def place(plannable, archives):
    return Place(plannable, Web(archives.pages))


@pytest.fixture
def built(place, archives):
    """A project whose packages are all as upstream has them: base from one archive, final more."""
    packages = {"openssl": "3.5.4-1", "zstd": "1.5", "python3": "3.13.5-1"}
    place.image("source", {}, archives.publish(SUITE, {MAIN: packages}))
    place.image("base", packages, [])
    extra = archives.publish(EXTRA, {"": {"cuda": "12.4"}}, fields="")
    place.image("final", {**packages, "cuda": "12.4"}, extra)
    return place


def index_of(handed):
    return [each for each in handed if each["kind"] == "index"]


# --- packages -------------------------------------------------------------------------------------


def test_where_nothing_moved_only_the_lists_of_suites_are_read(built):
    found = built.ask()
    assert (found.moved, found.unknown, found.stuck) == ((), (), ())
    assert built.web.asked == [f"{SUITE}/InRelease", f"{EXTRA}/InRelease"]


def test_a_package_that_moved_belongs_to_its_stage(built, archives):
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1", "zstd": "1.5", "cuda": "13"}})
    found = built.ask()
    assert found.moved == (
        Moved("base", "package", "openssl", "3.5.4-1", "3.5.5-1"),
        # final sees the lists of the stages below it, too.
        Moved("final", "package", "cuda", "12.4", "13"),
    )
    assert len([url for url in built.web.asked if "by-hash" in url]) == 1


def test_a_list_of_another_suite_does_not_touch_the_stages_below(built, archives):
    archives.publish(EXTRA, {"": {"cuda": "12.5", "openssl": "4"}}, fields="")
    assert built.answer() == [("final", "cuda", "12.4", "12.5")]


def test_only_lists_that_differ_are_fetched(place, archives):
    contrib = "contrib/binary-amd64"
    place.image("source", {}, archives.publish(SUITE, {MAIN: {"a": "1"}, contrib: {"b": "1"}}))
    place.image("base", {"a": "1", "b": "1"}, [])
    archives.publish(SUITE, {MAIN: {"a": "1"}, contrib: {"b": "2"}})
    assert place.answer() == [("base", "b", "1", "2")]
    assert [url.split("/by-hash")[0] for url in place.web.asked if "by-hash" in url] == [
        f"{SUITE}/{contrib}"
    ]


def test_what_is_pinned_stays(built, archives):
    archives.publish(SUITE, {MAIN: {"python3": "3.14"}})
    assert built.answer() == [], "pipeline.yml has python3=3.13.5-1"


def test_a_source_without_a_stage_on_it_is_asked_about_too(place, archives):
    place.image("source", {}, archives.publish(SUITE, {MAIN: {"openssl": "1:3.5.4-1"}}))
    assert place.answer() == []
    archives.publish(SUITE, {MAIN: {"openssl": "1:3.5.5-1"}})
    assert place.answer() == [("base", "openssl", "3.5.4-1", "1:3.5.5-1")]


def test_an_empty_store_asks_nobody(place):
    assert place.answer() == []
    assert place.web.asked == []


def test_archives_behind_tls_are_asked_directly(place, archives):
    suite = "https://tls.example/repo"
    asked = "http://HTTPS///tls.example/repo"
    place.image("source", {}, archives.publish(suite, {"": {"a": "1"}}, fields="", asked=asked))
    place.image("base", {"a": "1"}, [])
    archives.publish(suite, {"": {"a": "2"}}, fields="")
    assert place.answer() == [("base", "a", "1", "2")]


# --- what cannot be known -------------------------------------------------------------------------


def test_an_upstream_that_does_not_answer_is_named_and_counts_as_unmoved(built, archives):
    archives.publish(EXTRA, {"": {"cuda": "12.5"}}, fields="")
    del archives.pages[f"{SUITE}/InRelease"]
    found = built.ask()
    assert found.unknown == (Unknown(f"{SUITE}/InRelease", f"there is no {SUITE}/InRelease"),)
    assert [one.what for one in found.moved] == ["cuda"]


def test_a_password_in_a_mirrors_url_is_not_told(place, archives):
    suite = "http://me:secret@mirror.example/debian/dists/trixie"
    place.image("source", {}, archives.publish(suite, {MAIN: {"a": "1"}}))
    place.image("base", {"a": "1"}, [])
    archives.pages.clear()
    assert place.ask().unknown[0].what == f"{SUITE}/InRelease"


@pytest.mark.parametrize(("stage", "what"), [("base", "its image"), ("source", "its source")])
def test_what_was_made_before_there_were_network_locks_is_unknown(place, archives, stage, what):
    handed = archives.publish(SUITE, {MAIN: {"a": "1"}})
    place.image("source", {}, None if stage == "source" else handed)
    place.image("base", {"a": "1"}, None if stage == "base" else [])
    (unknown,) = place.ask().unknown
    assert unknown.what == "base"
    assert unknown.why.startswith(what)


def test_offline_is_refused(built):
    with pytest.raises(HostError, match="offline"):
        built.ask(offline=True)


# --- the cloud image ------------------------------------------------------------------------------


@pytest.fixture
def cloudy(place):
    place.variant = "two"
    place.image("source", {}, None)
    place.image("base", {"a": "1"}, [])
    return place


def test_a_cloud_image_is_compared_with_the_checksums_beside_it(cloudy, archives):
    sums = f"{'0' * 64} *other.qcow2\n{SHA256.upper()}  two.qcow2\n"
    archives.pages["http://images.example/SHA256SUMS"] = sums.encode()
    assert cloudy.ask().moved == ()
    archives.pages["http://images.example/SHA256SUMS"] = f"{'1' * 64}  two.qcow2\n".encode()
    (moved,) = cloudy.ask().moved
    assert moved == Moved("base", "image", "two.qcow2", SHA256[:12], "1" * 12, pinned=True)


def test_without_checksums_a_cloud_image_is_compared_with_how_it_looked(cloudy):
    cloudy.web.heads[IMAGE] = {"ETag": '"one"', "Content-Length": "5"}
    first = cloudy.ask()
    assert (first.moved, first.unknown[0].what) == ((), IMAGE)
    assert cloudy.ask().unknown == ()
    cloudy.web.heads[IMAGE] = {"ETag": '"two"', "Content-Length": "5"}
    (moved,) = cloudy.ask().moved
    assert (moved.kind, moved.before, moved.after) == ("image", 'etag "one"', 'etag "two"')
    assert moved.pinned


# --- locks ----------------------------------------------------------------------------------------


def test_wheels_and_models_are_told_as_pinned(built, project, archives):
    project({
        "stages/final/requirements.in": "numpy\n",
        "stages/final/requirements.lock": "numpy==2.5.5 \\\n    --hash=sha256:aa\nold==1\n",
        "stages/final/models.lock":
            "schema: 1\nmodels: [{repo: org/name, revision: main, commit: '" + "1" * 40 +
            "', files: {x: {sha256: '" + "2" * 64 + "', size: 1}}}]\n",
    })  # fmt: skip
    built.resolved["requirements.lock"] = "numpy==2.5.6 \\\n    --hash=sha256:bb\n"
    found = built.ask()
    lock = "stages/final/requirements.lock"
    assert found.moved == (
        Moved("final", "wheels", f"numpy of {lock}", "2.5.5", "2.5.6", pinned=True),
        Moved("final", "wheels", f"old of {lock}", "1", "none", pinned=True),
        Moved("final", "model", "org/name of stages/final/models.lock", "1" * 12, "2" * 12,
              pinned=True),
    )  # fmt: skip
    assert found.reasons == {}


# --- memory ---------------------------------------------------------------------------------------


def test_an_answer_that_is_young_enough_is_not_asked_for_again(built, archives):
    first = built.ask()
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1"}})
    asked = len(built.web.asked)
    assert built.ask(max_age=3600) == first
    assert len(built.web.asked) == asked
    image = built.project.image("base")
    assert upstream.remembered(built.project, image) == first
    built.image("base", {"openssl": "3.5.4-1"}, [], disk=b"another")
    assert upstream.remembered(built.project, built.project.image("base")) is None


def test_an_answer_in_the_future_or_too_old_is_none(built, archives):
    built.ask()
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1"}})
    assert built.ask(max_age=-1).moved, "an answer in the past is older than that"


def test_an_answer_about_other_images_is_not_good_enough(built, archives):
    built.ask()
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1"}})
    built.image("base", {"openssl": "3.5.4-1"}, [], disk=b"another")
    assert built.ask(max_age=3600).moved


def test_a_package_that_building_does_not_move_is_told_and_builds_no_more(built, archives):
    handed = archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1"}})
    moved = [("base", "openssl", "3.5.4-1", "3.5.5-1")]
    assert built.answer() == moved
    assert built.answer() == moved, "not built since"
    built.image("source", {}, index_of(handed), disk=b"another")
    built.image("base", {"openssl": "3.5.4-1"}, [], disk=b"another")
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1", "more": "1"}})
    for _ in range(2):
        found = built.ask()
        assert found.moved == ()
        assert [one.what for one in found.stuck] == ["openssl"]


def test_an_image_that_was_forced_on_the_old_root_disk_is_not_stuck(built, archives):
    archives.publish(SUITE, {MAIN: {"openssl": "3.5.5-1"}})
    moved = built.answer()
    built.image("base", {"openssl": "3.5.4-1"}, [], disk=b"another")
    assert built.answer() == moved != []


def test_a_stage_that_was_resumed_on_an_old_checkpoint_is_not_up_to_date(built, archives):
    packages = {"openssl": "3.5.4-1", "zstd": "1.5", "python3": "3.13.5-1"}
    newer = archives.publish(EXTRA, {"": {"cuda": "12.5", "tool": "1"}}, fields="")
    older = [{**each, "sha256": each["sha256"][::-1]} for each in index_of(newer)]
    both = [*older, *index_of(newer)]
    built.image("final", {**packages, "cuda": "12.4", "tool": "1"}, both, disk=b"another")
    assert built.answer() == [("final", "cuda", "12.4", "12.5")]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 1, "one": {"refresh": {}}}'])
def test_a_memory_that_is_broken_was_never_there(built, text):
    file = built.project.index / "refresh.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    assert built.ask(max_age=3600).moved == ()
    assert upstream.remembered(built.project, built.project.image("base")) is not None
