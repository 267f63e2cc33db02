"""Models from a hub that misbehaves, through the real huggingface_hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from builder.caches import models, shelf
from builder.caches.hub import Hub
from builder.fetch.transient import PermanentError, Policy, TransientError

pytestmark = pytest.mark.integration

REPO = "acme/tiny"
WEIGHTS = bytes(range(256)) * 4096  # a MiB
FILES = {"config.json": b'{"a": 1}', "onnx/model.onnx": WEIGHTS, "empty": b""}
DAY = 24 * 3600.0
QUICK = Policy(attempts=3, wait_initial=0.01, wait_max=0.05)


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    """No token and no setting of this host."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def commit(hub):
    return hub.add(REPO, FILES, lfs=["onnx/model.onnx"])


@pytest.fixture
def var(tmp_path):
    return tmp_path / "var"


def locked(hub, *commits):
    document = {"schema": 1, "models": [hub.lock(REPO, commit) for commit in commits]}
    return models.parse_lock(Path("models.lock"), yaml.safe_dump(document).encode())


@pytest.fixture
def ensure(hub, commit, var, downloads):
    """Have the models of the commit."""

    def run(*commits, **settings):
        asking = settings.pop("hub", None) or Hub(hub.url, policy=QUICK)
        lock = locked(hub, *(commits or [commit]))
        return models.ensure(lock, folder=var, hub=asking, fetcher=downloads, **settings)

    return run


def blobs(var):
    return sorted(p for p in var.glob("models/hub/*/blobs/*") if not p.name.startswith("."))


def test_files_are_where_their_paths_say(ensure, var):
    (got,) = ensure()
    assert {p: (got.folder / p).read_bytes() for p in FILES} == FILES
    assert (got.bytes, got.received, got.stale) == (sum(map(len, FILES.values())), got.bytes, False)
    assert got.checked is not None


def test_huggingface_hub_takes_the_folder_for_its_own_cache(ensure, var, commit):
    ensure()
    program = (
        "import huggingface_hub as h, sys\n"
        "c = sys.argv[1]\n"
        "print(h.snapshot_download('acme/tiny', revision=sys.argv[2], cache_dir=c,"
        " local_files_only=True))\n"
        "print(h.hf_hub_download('acme/tiny', 'config.json', cache_dir=c, local_files_only=True))\n"
        "print(len(h.scan_cache_dir(c).warnings))\n"
    )
    argv = [sys.executable, "-c", program, str(var / "models/hub"), commit]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env={"HOME": str(var)})
    snapshot, config, warnings = done.stdout.split()
    assert snapshot == str(var / "models/hub/models--acme--tiny/snapshots" / commit)
    assert Path(config).read_bytes() == FILES["config.json"]
    assert warnings == "0"


def test_with_a_full_commit_nothing_is_asked(ensure, hub):
    ensure()
    hub.asked.clear()
    (got,) = ensure()
    assert hub.asked == []
    assert (got.received, got.stale) == (0, False)


def test_offline_nothing_is_asked_either(ensure, hub):
    ensure()
    hub.asked.clear()
    (got,) = ensure(offline=True, ttl=0)
    assert hub.asked == []
    assert got.stale
    assert got.trouble == "offline: not asked"


def test_offline_every_missing_file_is_named(ensure, commit, hub):
    with pytest.raises(shelf.NotCachedError) as caught:
        ensure(offline=True)
    for path in FILES:
        assert f"acme/tiny at {commit[:12]}: {path}" in caught.value.message
    assert "vaultbuild cache warm models" in caught.value.hint
    assert hub.asked == []


@pytest.mark.parametrize("path", FILES.keys() - {"empty"})
def test_spoiled_bytes_are_found_put_aside_and_fetched_again(ensure, hub, var, path, caplog):
    (got,) = ensure()
    blob = (got.folder / path).resolve()
    spoiled = bytes([blob.read_bytes()[0] ^ 1]) + blob.read_bytes()[1:]
    blob.write_bytes(spoiled)
    hub.asked.clear()
    (again,) = ensure()
    assert again.spoiled == 1
    assert (again.folder / path).read_bytes() == FILES[path]
    (evidence,) = [p for p in var.glob("quarantine/*/*") if p.name != "why"]
    assert evidence.read_bytes() == spoiled
    why = evidence.with_name("why").read_text()
    for content in (spoiled, FILES[path]):
        assert hashlib.sha256(content).hexdigest() in why
        assert hashlib.sha256(content).hexdigest() in caplog.text
    assert again.received == len(FILES[path]), "and nothing else is fetched"


def test_two_commits_share_what_is_the_same(ensure, hub, commit, var):
    second = hub.add(REPO, {**FILES, "config.json": b"{}"})
    ensure()
    hub.asked.clear()
    got = ensure(commit, second)
    assert got[1].received == 2
    assert got[0].received == 0
    assert hub.gets("onnx") == []
    assert [one.moved for one in got] == [second, None]


def test_a_break_is_gone_on_from(ensure, hub):
    hub.fail("GET /" + hashlib.sha256(WEIGHTS).hexdigest(), "truncated", times=2)
    (got,) = ensure()
    ranges = [one.headers.get("Range") for one in hub.asked if one.server == "files"]
    assert ranges[:2] == [None, f"bytes={len(WEIGHTS) // 2}-"]
    assert got.received == got.bytes, "no byte came twice"


def test_the_next_run_goes_on_from_what_one_left(ensure, hub, var):
    where = "GET /" + hashlib.sha256(WEIGHTS).hexdigest()
    hub.fail(where, "truncated")
    hub.fail(where, "503", times=99)
    with pytest.raises(TransientError, match="503"):
        ensure()
    (partial,) = [p for p in var.glob("models/hub/*/blobs/.*.partial") if p.stat().st_size]
    assert partial.stat().st_size == len(WEIGHTS) // 2
    assert models.items(var) == [], "a model that is not whole is none"
    hub._faults.clear()
    (got,) = ensure()
    assert got.received < got.bytes - len(WEIGHTS) // 2 + 1


def test_wrong_bytes_are_never_taken(ensure, hub, var):
    hub.fail("/config.json", "wrong", times=99)
    with pytest.raises(PermanentError, match="wanted") as caught:
        ensure()
    assert hashlib.sha256(FILES["config.json"]).hexdigest() in caught.value.message
    assert not list(var.glob("models/hub/*/snapshots/*/config.json"))


def test_wrong_bytes_for_once_are_fetched_again(ensure, hub):
    hub.fail("GET /acme/tiny/resolve", "wrong")
    (got,) = ensure()
    assert (got.folder / "config.json").read_bytes() == FILES["config.json"]


def test_a_server_that_is_down_for_a_moment(ensure, hub):
    hub.fail("HEAD", "503", times=2)
    (got,) = ensure()
    assert not got.stale


def test_a_commit_that_is_not_there(ensure, hub, var):
    lock = locked(hub, hub.repos[REPO].refs["main"])
    hub.repos[REPO].commits.clear()
    with pytest.raises(PermanentError, match="404") as caught:
        models.ensure(lock, folder=var, hub=Hub(hub.url, policy=QUICK), fetcher=Never())
    assert "pin another commit" in caught.value.hint


class Never:
    """A fetcher that must not be asked."""

    def __getattr__(self, name):
        raise AssertionError(name)


def test_a_model_that_needs_a_login(ensure, hub, monkeypatch, caplog, commit):
    hub.repos[REPO].token = "hf_right"
    with pytest.raises(PermanentError, match="401") as caught:
        ensure()
    assert "log in on this host" in caught.value.hint
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    (got,) = ensure()
    assert got.received == got.bytes
    assert any("hf_right" in str(one.headers) for one in hub.asked if one.server == "hub")
    files = [one for one in hub.asked if one.server == "files"]
    assert files, "a redirect to another server"
    assert not any("hf_right" in str(one.headers) for one in files), "which never sees the token"
    assert "hf_right" not in caplog.text


def test_a_wrong_token_is_in_no_message(ensure, hub, monkeypatch, caplog):
    hub.repos[REPO].token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PermanentError) as caught:
        ensure()
    assert "hf_wrong" not in f"{caught.value.message} {caught.value.hint} {caplog.text}"


# --- older than its time to live ------------------------------------------------------------------


def test_an_old_one_is_confirmed(ensure, hub, commit):
    ensure()
    hub.asked.clear()
    (got,) = ensure(now=later)
    assert [str(one) for one in hub.asked] == [
        f"GET /api/models/acme/tiny/revision/{commit}",
        "GET /api/models/acme/tiny/revision/main",
    ]
    assert (got.stale, got.checked, got.moved, got.received) == (False, later(), None, 0)
    hub.asked.clear()
    ensure(now=later)
    assert hub.asked == []


def later() -> float:
    import time

    return int(time.time()) // 86400 * 86400 + 30 * DAY


def test_where_its_branch_stands_now_is_told(ensure, hub):
    ensure()
    moved = hub.add(REPO, {"config.json": b"new"})
    (got,) = ensure(now=later)
    assert (got.moved, got.stale) == (moved, False)
    assert (got.folder / "config.json").read_bytes() == FILES["config.json"]


@pytest.mark.parametrize("how", ["503", "down"])
def test_a_hub_that_does_not_answer_makes_it_stale(ensure, hub, how):
    (first,) = ensure()
    if how == "down":
        hub.stop()
    else:
        hub.fail("/api/", how, times=99)
    (got,) = ensure(now=later)
    assert got.stale
    assert got.checked == first.checked
    assert ("503" if how == "503" else "efused") in got.trouble


@pytest.mark.parametrize(
    ("how", "hint"), [("404", "--offline"), ("401", "log in"), ("403", "log in")]
)
def test_a_hub_that_says_no_is_an_error(ensure, hub, how, hint):
    ensure()
    hub.fail("/api/", how, times=99)
    with pytest.raises(PermanentError, match=how) as caught:
        ensure(now=later)
    assert hint in caught.value.hint
    (got,) = ensure(now=later, offline=True)
    assert got.stale, "and offline it is there still"


# --- two at once, and what there is ---------------------------------------------------------------


def test_two_processes_fetch_once(hub, commit, var, tmp_path):
    lock = tmp_path / "models.lock"
    lock.write_text(yaml.safe_dump({"schema": 1, "models": [hub.lock(REPO, commit)]}))
    program = (
        "import sys; from pathlib import Path\n"
        "from builder.caches import models; from builder.caches.hub import Hub\n"
        "from builder.fetch import Fetcher, Policy; from builder.fetch.breaker import Breakers\n"
        "lock, var, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]\n"
        "f = Fetcher(breakers=Breakers(var / 'run/breakers'), policy=Policy(reserve=0))\n"
        "got = models.ensure(models.parse_lock(lock, lock.read_bytes()), folder=var,"
        " hub=Hub(url), fetcher=f)\n"
        "print(sum(one.received for one in got))\n"
    )
    argv = [sys.executable, "-c", program, str(lock), str(var), hub.url]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    received = [int(one.communicate()[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sum(received) == sum(map(len, FILES.values()))
    assert len([1 for one in hub.gets() if "/resolve/" in one and "onnx" in one]) == 1
    assert len(hub.gets("/api/")) == 2, "the commit and its branch"


def test_what_there_is_and_what_goes(ensure, hub, commit, var):
    second = hub.add(REPO, {**FILES, "config.json": b"{}"})
    ensure(commit, second)
    found = {item.digest: item for item in models.items(var)}
    assert found.keys() == {commit, second}
    assert sum(item.bytes for item in found.values()) == len(WEIGHTS) + len(b'{"a": 1}') + 2
    assert models.drop(var, found[commit])
    assert [item.digest for item in models.items(var)] == [second]
    (got,) = ensure(second, offline=True)
    assert (got.folder / "onnx/model.onnx").read_bytes() == WEIGHTS


# --- for guests -----------------------------------------------------------------------------------


@pytest.fixture
def served(var, serve):
    (var / "models").mkdir(parents=True, exist_ok=True)
    return serve("models", var / "models")


def client(tmp_path, url, *words):
    """Run the real huggingface_hub as a guest would."""
    program = (
        "import huggingface_hub as h, json, sys\n"
        "repo, *more = sys.argv[1:]\n"
        "try:\n"
        "    print(h.snapshot_download(repo, revision=more[0]) if len(more) == 1"
        " else h.hf_hub_download(repo, more[1], revision=more[0]))\n"
        "except Exception as e:\n"
        "    print(type(e).__name__)\n"
    )
    env = {"HOME": str(tmp_path), "HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, env=env
    )
    return done.stdout.strip()


@pytest.mark.parametrize("revision", ["commit", "main"])
def test_a_guest_takes_the_cache_for_the_hub(ensure, served, commit, tmp_path, revision, hub):
    ensure()
    hub.asked.clear()
    wanted = commit if revision == "commit" else revision
    folder = Path(client(tmp_path, served, REPO, wanted))
    assert folder.name == commit
    assert {p: (folder / p).read_bytes() for p in FILES} == FILES
    assert hub.asked == []


def test_a_guest_can_get_one_file(ensure, served, commit, tmp_path):
    ensure()
    path = Path(client(tmp_path, served, REPO, commit, "onnx/model.onnx"))
    assert path.read_bytes() == WEIGHTS


def test_a_guest_is_told_what_is_not_there(ensure, served, commit, tmp_path):
    ensure()
    asked = [
        (("acme/other", "main"), "RepositoryNotFoundError"),
        ((REPO, "0" * 40), "RevisionNotFoundError"),
        ((REPO, commit, "other.json"), "RemoteEntryNotFoundError"),
    ]
    assert [client(tmp_path, served, *words) for words, _ in asked] == [name for _, name in asked]


def test_a_guest_never_gets_spoiled_bytes(ensure, served, commit, tmp_path, get):
    (got,) = ensure()
    url = f"{served}/{REPO}/resolve/{commit}/config.json"
    assert get(url).body == FILES["config.json"]
    (got.folder / "config.json").resolve().write_bytes(b'{"b": 1}')
    assert get(url).status == 404
    assert json.loads(FILES["config.json"])
