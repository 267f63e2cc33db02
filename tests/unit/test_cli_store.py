"""The commands that tell what the store holds, and make it smaller."""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder import caches, cli_cache
from builder.cli import main
from builder.fetch.breaker import Breakers
from builder.fetch.transient import TransientError
from builder.project import Project
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store


@pytest.fixture
def run():
    """Run the command line in this process; signals are left as they were."""
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture
def stored(project):
    """A project whose store has a base and three images on it; its templates cannot be rendered."""
    folder = project()
    (folder / "cache/etc").mkdir(parents=True)
    store = Store(folder / "cache/var")
    for day, (name, parent) in enumerate(
        [("base", None), ("aa", "base"), ("bb", "base"), ("cc", "base")], 1
    ):
        with store.staging() as staged:
            (staged / DISK).write_bytes(b"disk" * 4096)
            record = BuildRecord(
                key=name.encode().hex().ljust(64, "0"),
                variant="one",
                stage="final" if parent else "base",
                created=f"2026-11-0{day}T10:00:00Z",
                seconds=1.0,
                documents=(),
                parent=parent and parent.encode().hex().ljust(64, "0"),
                disk=DiskRecord("", 4 * 4096),
            )
            store.commit(staged, record)
    return folder


def images(folder: Path) -> list[str]:
    found = (folder / "cache/var/images").iterdir()
    return sorted(bytes.fromhex(path.name).rstrip(b"\0").decode() for path in found)


def test_the_status_tells_what_the_store_takes(run, stored):
    done = run("--project", stored, "cache", "status")
    assert done.exit_code == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["apt", "stopped"] in lines
    assert ["variant", "stage", "images", "checkpoints", "old", "current"] in lines
    assert any(line[:3] == ["one", "final", "3,"] for line in lines)
    assert lines[-1][0] == "total"
    assert "what is current is not known" in done.stderr


def test_the_status_of_the_store_has_a_stable_form(run, stored):
    done = run("--project", stored, "cache", "status", "--json")
    document = json.loads(done.stdout)
    assert document["schema"] == 1
    store = document["store"]
    assert set(store) == {
        "stages", "entries", "quarantine", "staging", "logs", "failed", "verdicts", "broken",
        "modules", "current_known", "total_bytes", "free_bytes",
    }  # fmt: skip
    assert set(store["stages"][0]) == {
        "variant", "stage", "images", "checkpoints", "old", "current",
    }  # fmt: skip
    assert set(store["entries"][0]) == {
        "kind", "key", "variant", "stage", "role", "bytes", "below", "chain_bytes", "created",
        "used", "current",
    }  # fmt: skip
    assert store["current_known"] is False


def test_a_dry_run_says_what_would_go_and_changes_nothing(run, stored):
    done = run("--project", stored, "cache", "prune", "--keep", "1", "--dry-run")
    assert done.exit_code == 0, done.stderr
    actions = [line.split()[:2] for line in done.stdout.splitlines()]
    assert actions.count(["remove", "image"]) == 2
    assert actions.count(["keep", "image"]) == 2
    assert "would be removed" in done.stdout.splitlines()[-1]
    assert images(stored) == ["aa", "base", "bb", "cc"]


def test_pruning_keeps_the_newest_and_says_why(run, stored):
    done = run("--project", stored, "cache", "prune", "--keep", "1", "--json")
    assert done.exit_code == 0, done.stderr
    assert images(stored) == ["base", "cc"]
    document = json.loads(done.stdout)
    assert set(document) == {
        "schema", "dry_run", "removed_bytes", "kept_bytes", "over_bytes", "free_bytes", "choices",
    }  # fmt: skip
    assert document["removed_bytes"] > 0
    assert [choice["action"] for choice in document["choices"]] == ["remove"] * 2 + ["keep"] * 2
    assert document["choices"][0] == {
        "action": "remove",
        "place": f"images/{'6161'.ljust(64, '0')}",
        "kind": "image",
        "key": "6161".ljust(64, "0"),
        "variant": "one",
        "stage": "final",
        "role": None,
        "bytes": document["choices"][0]["bytes"],
        "reason": "older than the newest 1 of final",
    }


def test_pruning_to_a_size_that_does_not_fit_says_so(run, project, stored):
    big = stored / "cache/var/failed/one-final/disk.qcow2"
    big.parent.mkdir(parents=True)
    big.write_bytes(b"x" * (2 << 20))
    done = run("--project", stored, "cache", "prune", "--max-size", "1M")
    assert done.exit_code == 0, done.stderr
    assert images(stored) == ["base", "cc"]
    assert "does not fit" in done.stderr


def test_what_a_killed_publish_left_in_dist_goes(run, stored):
    unused = Path("/proc/sys/kernel/pid_max").read_text().strip()
    left = stored / f"dist/.staging-{unused}-x"
    left.mkdir(parents=True)
    assert left.name in run("--project", stored, "cache", "prune", "--dry-run").stdout
    assert left.exists()
    assert run("--project", stored, "cache", "prune").exit_code == 0
    assert not left.exists()


def test_a_store_can_be_pruned_while_the_project_is_broken(run, project, stored):
    project({"stages/pipeline.yml": "schema: ["})
    done = run("--project", stored, "cache", "prune", "--keep", "1")
    assert done.exit_code == 0, done.stderr
    assert "what is current is not known" in done.stderr
    assert images(stored) == ["base", "cc"]


def test_there_is_nothing_to_prune_where_no_project_is(run, tmp_path):
    done = run("--project", tmp_path, "cache", "prune")
    assert done.exit_code == 2
    assert "stages/pipeline.yml" in done.stderr


@pytest.mark.parametrize(
    "words",
    [["--max-size", "50"], ["--max-size", "many"], ["--older-than", "30"], ["--keep", "0"]],
)
def test_a_size_or_an_age_that_is_none_is_a_mistake_of_usage(run, stored, words):
    done = run("--project", stored, "cache", "prune", *words)
    assert done.exit_code == 2
    assert "Usage:" in done.stderr
    assert images(stored) == ["aa", "base", "bb", "cc"]


def test_the_help_of_the_caches_shows_examples(run):
    assert "vaultbuild cache prune --dry-run" in run("cache", "--help").output


def test_what_runs_of_all_variants_would_use_is_current(project, tmp_path, monkeypatch):
    packer = tmp_path / "bin/packer"
    packer.parent.mkdir()
    packer.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", str(packer.parent), prepend=os.pathsep)
    ours = Path(__file__).parents[2]
    folder = project({"stages/base/stage.yml": "roles: [greeting, sealing]\n"})
    shutil.copytree(ours / "packer", folder / "packer", dirs_exist_ok=True)
    for name in ("ansible.cfg", "requirements.yml"):
        shutil.copy(ours / "ansible" / name, folder / "ansible")
    expected = {}
    for variant in ("one", "two"):
        base, final = Project(folder, variant=variant, engine="nspawn").inputs("final")
        expected |= {
            f"images/{key}": f"images/{key}" for key in (base.keys[0], base.key, final.key)
        }
        expected[f"checkpoints/{base.roles[0][1]}"] = f"images/{base.key}"
    assert Project(folder, engine="nspawn").current() == expected
    assert len(expected) == 8


@pytest.mark.parametrize("command", ["status", "down"])
def test_the_caches_are_seen_and_stopped_while_a_file_is_wrong(run, project, command):
    folder = project({"stages/final/stage.yml": "rols: []\n"})
    (folder / "cache/etc").mkdir(parents=True)
    done = run("--project", folder, "cache", command)
    assert done.exit_code == 0, done.stderr
    assert ["apt", "stopped"] in [line.split() for line in done.stdout.splitlines()]


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_status_shows_no_password_of_a_cache(run, project, words):
    folder = project()
    (folder / "cache/etc").mkdir(parents=True)
    path = folder / "stages/pipeline.yml"
    path.write_text(
        path.read_text() + "caches: {apt: {url: 'http://builder:s3cret@127.0.0.1:9'}}\n"
    )
    done = run("--project", folder, "cache", "status", *words)
    assert done.exit_code == 0, done.stderr
    assert "http://127.0.0.1:9" in done.stdout
    assert "s3cret" not in done.output


@pytest.fixture
def cached(stored):
    """The project of a store, with two packages in its cache, one of them not used for long."""
    for name, age in (("old", 100), ("new", 1)):
        path = stored / f"cache/var/apt/packages/mirror.example/pool/{name}_1_amd64.deb"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4096)
        path.with_name(path.name + ".head").touch()
        os.utime(path, (time.time() - age * 86400,) * 2)
    return stored


def packages(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/var/apt/packages").rglob("*.deb*"))


def test_the_status_tells_what_the_caches_keep(run, cached):
    done = run("--project", cached, "cache", "status")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["apt", "stopped", "2", "files", "8", "KiB"] in rows
    assert ["pypi", "stopped"] in rows
    document = json.loads(run("--project", cached, "cache", "status", "--json").stdout)
    assert document["breakers"] == []
    assert document["caches"][0] | {"holds": None} == {
        "name": "apt", "state": "stopped", "url": None, "process": None, "stays": False,
        "used": False, "offline": False, "holds": None, "gave": None,
    }  # fmt: skip
    assert document["caches"][0]["holds"]["files"] == 2
    assert document["caches"][0]["holds"]["oldest_use"].endswith("Z")


def test_a_server_that_is_not_asked_is_told(run, cached):
    breaker = Breakers(cached / "cache/var/run/breakers", failures=1).of("http://mirror.example/x")
    with contextlib.suppress(TransientError), breaker.calling():
        raise TransientError("it answers 503")
    told = run("--project", cached, "cache", "status", "apt").stdout
    [line] = [line for line in told.splitlines() if line.startswith("not asked for now: ")]
    assert "mirror.example" in line
    assert "503" in line
    document = json.loads(run("--project", cached, "cache", "status", "--json").stdout)
    assert [each["state"] for each in document["breakers"]] == ["open"]


def test_one_cache_is_told_without_the_store(run, cached):
    done = run("--project", cached, "cache", "status", "apt", "--json")
    document = json.loads(done.stdout)
    assert [each["name"] for each in document["caches"]] == ["apt"]
    assert "store" not in document


def test_a_cache_is_pruned_by_name_and_the_store_is_not(run, cached):
    for words in (["--dry-run"], []):
        done = run("--project", cached, "cache", "prune", "apt", "--older-than", "30d", *words)
        assert done.exit_code == 0, done.stderr
        assert ["remove", "apt", "1", "file", "4", "KiB"] in [
            line.split() for line in done.stdout.splitlines()
        ]
    assert packages(cached) == ["new_1_amd64.deb", "new_1_amd64.deb.head"]
    assert images(cached) == ["aa", "base", "bb", "cc"]


def test_pruning_caches_without_a_rule_says_what_to_type(run, cached):
    done = run("--project", cached, "cache", "prune", "apt")
    assert done.exit_code == 0
    assert "--older-than" in done.stderr
    assert len(packages(cached)) == 4


def test_pruning_caches_has_a_form_of_its_own_beside_the_store_s(run, cached):
    words = ["--older-than", "30d", "--json"]
    done = run("--project", cached, "cache", "prune", "apt", "pypi", *words)
    document = json.loads(done.stdout)
    assert set(document) == {"schema", "dry_run", "caches"}
    assert document["caches"]["removed_bytes"] == 4096
    assert [c["action"] for c in document["caches"]["choices"]] == ["remove", "keep"]
    done = run("--project", cached, "cache", "prune", "store", "apt", *words)
    assert {"caches", "choices"} < set(json.loads(done.stdout))


@pytest.mark.parametrize("words", [["wheel"], ["store", "apt", "--max-size", "1G"]])
def test_a_mistake_in_what_to_prune_is_one_of_usage(run, cached, words):
    assert run("--project", cached, "cache", "prune", *words).exit_code == 2


def test_the_names_of_the_caches_are_completed(run):
    group = main.commands["cache"]
    for command, expected in {"up": {"pypi"}, "prune": {"pypi"}}.items():
        [names] = [each for each in group.commands[command].params if each.name == "names"]
        found = names.type.shell_complete(None, names, "py")
        assert {item.value for item in found} == expected


def test_the_names_are_those_of_the_caches():
    assert cli_cache.NAMES == caches.NAMES


@pytest.mark.parametrize("command", ["status", "down"])
def test_a_folder_that_is_no_project_has_no_caches(run, tmp_path, command):
    assert run("--project", tmp_path, "cache", command).exit_code == 2
