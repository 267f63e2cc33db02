"""What a guest gets over the network: refused by name, written down, and not needed twice."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from builder import network

pytestmark = pytest.mark.e2e

WANDER = """\
- seal
  - role: wanderer
    variables: {{wanderer_url: "{url}"}}"""
# A network namespace with a loopback and nothing else, and the routes it has written down.
ALONE = 'ip link set lo up && ip route show > "$1" && shift && exec "$@"'


def lock_of(project, key):
    return network.read(project.var / "images" / key / network.LOCK)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://files.example/x.tar.gz", "files.example:443"),
        ("http://files.example/x.tar.gz", "files.example:80"),
    ],
)
def test_a_role_that_goes_elsewhere_is_told_where_and_how_to_allow_it(copy, url, address):
    copy.edit("stages/final/stage.yml", "- seal", WANDER.format(url=url))
    ran = copy("stage", "final", "--engine", "nspawn", status=1)
    assert 'final: role wanderer, task "Fetch what no cache has" failed' in ran.stderr
    assert f"Role wanderer asked for {address}, which stage final may not reach." in ran.stderr
    assert 'write "hosts: [files.example]" in stages/final/stage.yml' in ran.stderr
    assert 'write "network: open" in stages/final/stage.yml' in ran.stderr


def test_what_was_handed_out_is_written_down_with_the_image(built):
    keys = built.keys()
    record = json.loads((built.var / "images" / keys["final"] / "record.json").read_text())
    lock = lock_of(built, keys["final"])
    packages = [one for one in lock.handed if one.url.endswith(".deb")]
    assert {one.role for one in packages} == {"greeting"}
    assert any("/hello_" in one.url for one in packages)
    assert record["network"]["handed"] == len(lock.handed)
    assert record["network"]["traffic"]["misses"] > 0
    assert "network   caches," in built("show", "final", "--engine", "nspawn").stdout


def test_the_root_s_packages_are_written_down_too(built):
    source = json.loads(built("show", "base", "--engine", "nspawn", "--json").stdout)["parent"]
    images = (built.var / "images").glob("*/record.json")
    records = [json.loads(path.read_text()) for path in images]
    (key,) = [each["key"] for each in records if each["stage"] == "source"]
    assert source in {None, key}
    packages = [one for one in lock_of(built, key).handed if one.url.endswith(".deb")]
    assert len(packages) > 100
    assert all(one.cache == "apt" and one.kind == "file" for one in packages)


@pytest.fixture
def bare(built, tmp_path):
    """The built project without its images and without anything in its caches."""
    project = tmp_path / "bare"
    shutil.copytree(
        built.project,
        project,
        ignore=lambda folder, _: ["var"] if folder.endswith("/cache") else [],
    )
    yield type(built)(project, built.temporary)
    shutil.rmtree(project)


def warm_with_what_upstream_has(bare, built, lock):
    """Fill the caches with what an image was built from, in its network lock.

    An archive publishes updates at any minute. Where it did since the image was built, the caches
    have the updates too, and a build would take those: the image is then built again first.
    """
    for _ in range(3):
        lock.write_text(built("show", "final", "--engine", "nspawn", "--network").stdout)
        (warmed,) = bare("cache", "warm", "--lock", lock, "--json").json["warmed"]
        if "moved" not in warmed["counts"]:
            return warmed
        built("stage", "final", "--engine", "nspawn", "--refresh")
    pytest.fail("upstream moved as often as the image was built")


def test_after_one_warm_no_network_is_needed(built, bare, tmp_path, require_program):
    lock, routes = tmp_path / "lock.json", tmp_path / "routes"
    warmed = warm_with_what_upstream_has(bare, built, lock)
    assert warmed["counts"].keys() <= {"fetched", "present"}
    argv = [
        require_program("unshare"), "--net", "sh", "-c", ALONE, "sh", routes,
        sys.executable, "-m", "builder", "stage", "final", "--engine", "nspawn", "--offline",
        "--project", bare.project,
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path.cwd()), "TMPDIR": str(bare.temporary)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert routes.read_text() == ""
    key = built.keys()["final"]
    records = [
        json.loads((each.var / "images" / key / "record.json").read_text())
        for each in (built, bare)
    ]
    assert records[0]["packages"] == records[1]["packages"]
    assert records[1]["network"]["offline"]
    assert records[1]["network"]["traffic"]["misses"] == 0
    before, after = (lock_of(each, key) for each in (built, bare))
    assert {(one.url, one.sha256) for one in after.handed} == {
        (one.url, one.sha256) for one in before.handed
    }


def test_offline_what_is_not_cached_is_told(bare):
    ran = bare("stage", "final", "--engine", "nspawn", "--offline", status=1)
    assert "vaultbuild cache warm" in ran.stderr


def test_what_moved_upstream_is_built_again_and_then_nothing_moved(copy):
    """The images are made to look older than they are: an old index, an old package.

    What the archive published since they were built moved as well.
    """
    keys = copy.keys()
    (source,) = [
        path.parent
        for path in (copy.var / "images").glob("*/record.json")
        if json.loads(path.read_text())["stage"] == "source"
    ]
    age_index(source / network.LOCK)
    base = copy.var / "images" / keys["base"] / "record.json"
    record = json.loads(base.read_text())
    record["packages"]["dpkg"]["openssl"] = "0.9.8-1"
    rewrite(base, record)
    ran = copy("plan", "final", "--engine", "nspawn", "--refresh", "--json", "--detailed-exitcode",
               status=4)  # fmt: skip
    moved = ran.json["refresh"]["moved"]
    assert ("openssl", "0.9.8-1") in {(one["what"], one["before"]) for one in moved}
    assert [step["action"] for step in ran.json["steps"]] == ["build", "build"]
    copy("stage", "final", "--engine", "nspawn", "--refresh")
    assert copy.keys() == keys
    assert json.loads(base.read_text())["packages"]["dpkg"]["openssl"] != "0.9.8-1"
    ran = copy("plan", "final", "--engine", "nspawn", "--refresh", "--json", "--detailed-exitcode")
    assert ran.json["refresh"]["moved"] == []
    assert [step["action"] for step in ran.json["steps"]] == ["reuse", "reuse"]


def age_index(path):
    """Say that an index that was handed out held other bytes."""
    lock = json.loads(path.read_text())
    for one in lock["handed"]:
        if one["kind"] == "index" or "/by-hash/" in one["url"]:
            one["sha256"] = "0" * 64
    rewrite(path, lock)


def rewrite(path, document):
    """Replace a file, which other projects share by a hard link."""
    path.unlink()
    path.write_text(json.dumps(document))
