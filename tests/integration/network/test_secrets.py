"""Passwords of upstreams and tokens: where they may be, and that they are nowhere else."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import os
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from builder import caches, network
from builder.needs import FileNeed, Needs, Target
from builder.provide import Means, provide

pytestmark = pytest.mark.integration

INDEX, PROXY, TOKEN, SIGNATURE, USER = (
    f"s3cr3t-{name}" for name in ("index", "proxy", "token", "signature", "user")
)
SECRETS = (INDEX, PROXY, TOKEN, SIGNATURE, USER)
NEED = {"stage": "base", "role": "greeting", "variable": "x", "sha256": "0" * 64}


@pytest.fixture
def everything(desk, archive, upstream, hub, monkeypatch, require_program):
    """An index and a proxy with passwords, and a hub that wants a token."""
    require_program("devpi-server")
    upstream.put("/simple/alpha/", b"<html></html>", headers={"Content-Type": "text/html"})
    # Once: it is what makes devpi-server send the password.
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    upstream.status("/simple/alpha/", 401, headers=challenge, times=1)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:{INDEX}@{upstream.address}/simple/")
    proxy = f"http://me:{PROXY}@{upstream.address}"
    Path(os.environ["APT_CONFIG"]).write_text(f'Acquire::http::Proxy "{proxy}";\n')
    monkeypatch.setenv("https_proxy", proxy)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    commit = hub.add("acme/tiny", {"config.json": b"{}"})
    hub.repos["acme/tiny"].token = TOKEN
    text = yaml.safe_dump({"schema": 1, "models": [hub.lock("acme/tiny", commit)]})
    (desk.folder / "models.lock").write_text(text)
    (desk.folder / "wheels.lock").write_text(f"alpha==1.0 --hash=sha256:{'0' * 64}\n")
    return commit


@contextlib.contextmanager
def watched():
    """Look at the arguments of all processes for as long as the block lasts; yield what leaks."""
    found: set[str] = set()
    done = threading.Event()

    def watch():
        while not done.wait(0.02):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    line = file.read_bytes().decode(errors="replace")
                    found.update(secret for secret in SECRETS if secret in line)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def ask(proxy: str, url: str) -> int:
    """Ask as a program does that passes on whatever its user wrote."""
    link = http.client.HTTPConnection(urlsplit(proxy).netloc, timeout=20)
    with contextlib.closing(link):
        link.request("GET", url)
        answer = link.getresponse()
        said = answer.read().decode(errors="replace")
    if answer.status != 200:
        assert not [secret for secret in SECRETS if secret in said]
    return answer.status


def test_secrets_are_nowhere_but_where_they_must_be(
    desk, archive, upstream, hub, everything, caplog
):
    upstream.put("/x.tar.gz", b"x")
    target = Target("{}.{}".format(*sys.version_info), "2.36")
    needs = Needs(
        (FileNeed(path=Path("wheels.lock"), target=target, **NEED),),
        (FileNeed(path=Path("models.lock"), **NEED),),
        None,
    )
    stage = dataclasses.replace(
        desk.project.pipeline.stages[0], hosts=(upstream.address, "*.example")
    )
    logs = desk.folder / "logs"
    logs.mkdir()
    caplog.set_level("DEBUG")
    with watched() as leaked, desk.supplies(names=caches.NAMES) as supplies:
        with supplies.served(None, logs / "provide.jsonl") as seen:
            index, settings = supplies.index(seen), {"models": {"upstream": hub.url}}
            provide(needs, Means(desk.folder, index, settings, desk.reporter.note))
        with desk.behind(supplies, "logs/network", stage=stage) as guest:
            guest.well("alpha")
            signed = f"{upstream.address}/x.tar.gz?X-Signature={SIGNATURE}"
            assert ask(guest.seen.apt, f"http://{signed}") == 200
            assert ask(guest.seen.apt, f"http://me:{USER}@{signed}") == 403
            # By way of the host's proxy, which makes no tunnels.
            assert ask(guest.seen.apt, f"http://mirror.example{archive.deb('beta')}") == 200
            assert ask(guest.seen.apt, f"http://x.example/x?s={SIGNATURE}") == 502
            assert ask(guest.seen.apt, f"{guest.seen.apt}/y?token={SIGNATURE}") == 403
        lock, described = supplies.settle(stage, logs)
        network.write(logs / network.LOCK, lock)
        statuses = caches.status(supplies.pipeline.caches, desk.folder)
    assert leaked == set()
    # All of them were used.
    sent = [each.headers.get("authorization", "") for each in upstream.requests]
    assert any(each.startswith("Basic") for each in sent)
    assert any("proxy-authorization" in each.headers for each in upstream.requests)
    assert any(TOKEN in str(each.headers) for each in hub.asked)
    assert [one.url for one in lock.handed if one.cache == "direct"] == [f"{upstream.url}/x.tar.gz"]
    for text in (desk.said, caplog.text, str(statuses), str(described), str(lock)):
        assert [secret for secret in SECRETS if secret in text] == []
    holding = {
        path.name: path.stat().st_mode & 0o077
        for path in desk.folder.rglob("*")
        if path.is_file() and any(secret.encode() in path.read_bytes() for secret in SECRETS)
    }
    assert holding == {"zz-this-host.conf": 0}
