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
    """Call it with a project's pipeline.yml lines to replace: the findings by id."""
    monkeypatch.delenv("http_proxy", raising=False)

    def look(url, *, variant="one", hosts=()):
        packages = "packages: [linux-image-amd64, python3=3.13.5-1]"
        mirrors = f"{packages}, mirrors: ['deb {url} trixie main']"
        edits = {"stages/pipeline.yml": (packages, mirrors)}
        pipeline = load_pipeline(project(edits), variant)
        stage = SimpleNamespace(hosts=hosts, roles=())
        changed = SimpleNamespace(
            project=pipeline.project, source=pipeline.source, caches=pipeline.caches, stages=[stage]
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
