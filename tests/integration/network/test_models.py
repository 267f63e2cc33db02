"""Models that a build has ready, and huggingface_hub that takes the gateway for a hub."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builder import network
from builder.needs import FileNeed, Needs
from builder.provide import Means, provide

pytestmark = pytest.mark.integration

REPO = "acme/tiny"
WEIGHTS = bytes(range(256)) * 4096  # a MiB
FILES = {"config.json": b'{"a": 1}', "onnx/model.onnx": WEIGHTS}
_PROGRAM = (
    "import huggingface_hub as h, sys\n"
    "print(h.snapshot_download('acme/tiny', revision=sys.argv[1]))\n"
)


@pytest.fixture
def commit(hub, desk, monkeypatch):
    """A commit of the hub, which a lock file names."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    found = hub.add(REPO, FILES, lfs=["onnx/model.onnx"])
    text = yaml.safe_dump({"schema": 1, "models": [hub.lock(REPO, found)]})
    (desk.folder / "models.lock").write_text(text)
    return found


@pytest.fixture
def have(hub, desk, commit):
    """Have the models ready, as a build does before its stages."""
    need = FileNeed("base", "greeting", "x", Path("models.lock"), "0" * 64)

    def run(*, offline=False):
        means = Means(
            desk.folder, None, {"models": {"upstream": hub.url}},
            desk.reporter.note, offline=offline,
        )  # fmt: skip
        return provide(Needs((), (need,), None), means)

    return run


def snapshot(guest, commit: str) -> dict[str, bytes]:
    """Let a guest download everything."""
    guest.root.mkdir(exist_ok=True)
    env = {"HOME": str(guest.root), "HF_ENDPOINT": guest.seen.urls["models"]}
    argv = [sys.executable, "-c", _PROGRAM, commit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return {path: (Path(done.stdout.strip()) / path).read_bytes() for path in FILES}


def test_models_arrive_whatever_happens_to_them_once(desk, hub, have, commit):
    blob = hashlib.sha256(WEIGHTS).hexdigest()
    hub.fail(f"GET /{blob}", "truncated")
    hub.fail(f"GET /{blob}", "wrong")
    hub.fail("HEAD /acme/tiny", "503")
    hub.fail("GET /acme/tiny", "503")
    with desk.supplies(names=("models",)) as supplies:
        (got,) = have().models
        assert (got.commit, got.trouble) == (commit, None)
        with desk.behind(supplies) as guest:
            assert snapshot(guest, commit) == FILES
    lock = network.lock_of(guest.journal, mode="caches", offline=False)
    found = {one.url: (one.sha256, one.bytes, one.origin) for one in lock.handed}
    for path, data in FILES.items():
        expected = (hashlib.sha256(data).hexdigest(), len(data), "cache")
        assert found[f"{REPO}/resolve/{commit}/{path}"] == expected
    assert {one.cache for one in lock.handed} == {"models"}


def test_a_model_that_was_damaged_is_not_served_but_fetched_again(desk, hub, have, commit):
    with desk.supplies(names=("models",)) as supplies:
        have()
        (blob,) = (path for path in desk.var.glob("models/hub/*/blobs/*")
                   if path.stat().st_size == len(WEIGHTS))  # fmt: skip
        blob.write_bytes(b"X" + WEIGHTS[1:])
        hub.asked.clear()
        (got,) = have().models
        assert (got.spoiled, got.received) == (1, len(WEIGHTS))
        with desk.behind(supplies) as guest:
            assert snapshot(guest, commit) == FILES
    assert desk.quarantined == ["model.onnx", "why"]
    hub.stop()
    with desk.supplies(names=("models",), offline=True) as supplies:
        have(offline=True)
        with desk.behind(supplies, "offline") as guest:
            assert snapshot(guest, commit) == FILES
    assert guest.wrote("missing") == []
