"""What doctor says of those who will be asked over the network."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from builder.doctor import Case
from builder.doctor.upstream import servers
from builder.pipeline import load_pipeline

RELEASE = b"Suite: trixie\n" * 10_000


@pytest.fixture
def looked(project, monkeypatch):
    """Call it with a mirror, hosts and archives that a stage adds: the findings by id."""
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def look(url, *, variant="one", hosts=(), archives=()):
        packages = "packages: [linux-image-amd64, python3=3.13.5-1]"
        mirrors = f"{packages}, mirrors: ['deb {url} trixie main']"
        edits = {"stages/pipeline.yml": (packages, mirrors)}
        pipeline = load_pipeline(project(edits), variant)
        uses = [
            SimpleNamespace(role="apt_repository", name="apt_repository", variables=each, paths={})
            for each in archives
        ]
        changed = SimpleNamespace(
            project=pipeline.project,
            source=pipeline.source,
            caches=pipeline.caches,
            stages=[SimpleNamespace(hosts=hosts, roles=uses)],
            roles={"apt_repository": SimpleNamespace(defaults={"apt_repository_suites": ["/"]})},
        )
        return {each.id: each for each in servers(Case(changed))}

    return look


def test_a_mirror_that_answers(upstream, looked):
    upstream.put("/dists/trixie/InRelease", RELEASE)
    finding = looked(upstream.url)["mirror-trixie"]
    assert finding.level == "ok"
    assert "answered in" in finding.evidence
    assert [each.method for each in upstream.requests] == ["HEAD", "HEAD", "GET"]


def test_a_mirror_that_drips_is_told_with_its_speed(upstream, looked):
    upstream.put("/dists/trixie/InRelease", RELEASE)
    upstream.drip("/dists/trixie/InRelease", count=8192, seconds=0.2)
    finding = looked(upstream.url)["mirror-trixie"]
    assert finding.level == "warn"
    assert "MB/s" in finding.evidence
    assert "caches.apt.mirrors" in finding.cure


def test_a_mirror_without_the_suite(upstream, looked):
    finding = looked(upstream.url)["mirror-trixie"]
    assert finding.level == "warn"
    assert "404" in finding.evidence
    assert finding.cure


def test_a_mirror_that_is_down_is_asked_once(upstream, looked):
    upstream.put("/dists/trixie/InRelease", RELEASE)
    upstream.status("/dists/trixie/InRelease", 503)
    finding = looked(upstream.url)["mirror-trixie"]
    assert finding.level == "warn"
    assert "503" in finding.evidence
    assert len(upstream.requests) == 1


def test_credentials_that_are_refused_are_told_and_not_shown(upstream, looked):
    upstream.status("/dists/trixie/InRelease", 401)
    url = upstream.url.replace("http://", "http://user:geheim@")
    finding = looked(url)["mirror-trixie"]
    assert finding.level == "warn"
    assert "credentials" in finding.cure
    assert "geheim" not in f"{finding}"


def test_nothing_is_left_behind(upstream, looked, project):
    upstream.status("/dists/trixie/InRelease", 503)
    looked(upstream.url)
    assert not (project() / "cache/var/run").exists(), "no breaker was moved"


def test_a_number_in_an_address_is_no_status(looked):
    finding = looked("http://127.0.0.1:401")["mirror-trixie"]
    assert finding.level == "warn"
    assert "credentials" not in finding.cure


def test_a_mirror_without_the_suite_is_on_the_network(upstream, looked):
    finding = looked(upstream.url)["mirror-trixie"]
    assert "it answers, and has no such file" in finding.cure


# --- archives that roles add ----------------------------------------------------------------------


def test_an_archive_of_a_role_is_asked_as_apt_asks_it(upstream, looked):
    upstream.put("/cuda/InRelease", RELEASE)
    upstream.put("/docker/dists/noble/InRelease", RELEASE)
    flat = {"apt_repository_name": "nvidia", "apt_repository_uris": [f"{upstream.url}/cuda"]}
    whole = {
        "apt_repository_name": "docker",
        "apt_repository_uris": [f"{upstream.url}/docker"],
        "apt_repository_suites": ["noble"],
    }
    found = looked(upstream.url, archives=[flat, whole, flat], hosts=["127.0.0.1"])
    nvidia = found["archive-127.0.0.1/cuda"]
    assert (nvidia.level, nvidia.title) == ("ok", "archive nvidia")
    assert found["archive-127.0.0.1/docker/dists/noble"].level == "ok"
    assert "host-127.0.0.1" not in found, "who has an archive was asked"
    assert len([each for each in upstream.requests if "/cuda/" in each.path]) == 3


def test_an_archive_that_drips_is_told_with_its_speed(upstream, looked):
    upstream.put("/cuda/InRelease", RELEASE)
    upstream.drip("/cuda/InRelease", count=8192, seconds=0.2)
    archive = {"apt_repository_name": "nvidia", "apt_repository_uris": [f"{upstream.url}/cuda"]}
    finding = looked(upstream.url, archives=[archive])["archive-127.0.0.1/cuda"]
    assert (finding.level, "MB/s" in finding.evidence) == ("warn", True)


def test_an_archive_without_an_inrelease_may_have_a_release(upstream, looked):
    upstream.put("/old/Release", RELEASE)
    archive = {"apt_repository_name": "old", "apt_repository_uris": [f"{upstream.url}/old"]}
    assert looked(upstream.url, archives=[archive])["archive-127.0.0.1/old"].level == "ok"


def test_an_archive_that_refuses_this_host_is_told(upstream, looked):
    upstream.status("/cuda/InRelease", 403)
    archive = {"apt_repository_name": "nvidia", "apt_repository_uris": [f"{upstream.url}/cuda"]}
    finding = looked(upstream.url, archives=[archive])["archive-127.0.0.1/cuda"]
    assert finding.level == "warn"
    assert "refuses this host" in finding.cure


# --- hosts of which nobody knows what they are for ------------------------------------------------


@pytest.mark.parametrize("status", [200, 403, 404, 503])
def test_a_host_without_https_that_answers_was_reached(status, upstream, looked):
    upstream.status("/", status)
    name = upstream.url.removeprefix("http://")
    finding = looked(upstream.url, hosts=[name])[f"host-{name}"]
    assert finding.level == "ok"
    assert f"http://{name}/ answered {status} in" in finding.evidence


def test_a_host_where_nobody_is_was_not_reached(looked):
    finding = looked("http://127.0.0.1:401", hosts=["127.0.0.1:401"])["host-127.0.0.1:401"]
    assert finding.level == "warn"
    assert "https://127.0.0.1:401/: " in finding.evidence
    assert "http://127.0.0.1:401/: " in finding.evidence
    assert "is the network up?" in finding.cure


def test_an_answer_that_may_be_the_proxy_s_is_told_as_such(upstream, looked, monkeypatch):
    monkeypatch.setenv("http_proxy", upstream.url)
    monkeypatch.setenv("https_proxy", upstream.url)
    finding = looked(upstream.url, hosts=["nosuch.example"])["host-nosuch.example"]
    assert finding.level == "warn"
    assert "or the proxy before it did" in finding.evidence
