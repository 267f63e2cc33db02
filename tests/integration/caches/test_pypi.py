"""The real devpi-server: the mirror and the index in front of it, online and offline."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder import caches
from builder.caches.http import ask
from builder.caches.kept import Rules

pytestmark = pytest.mark.integration

SECRET = "s3cr3t-of-the-index"
ALPHA = "alpha-1.0-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _index(origin, home, require_program, monkeypatch):
    require_program("devpi-server")
    origin.index("alpha", ALPHA)
    origin.index("beta", "beta-1.0-py3-none-any.whl")
    origin.index("ours", "ours-99.0-py3-none-any.whl")
    monkeypatch.setenv("PIP_INDEX_URL", f"{origin.url}/simple/")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield
    caches.down({}, home)


def pypi(home, **options):
    return caches.running({}, home, names=["pypi"], **options)


def page(index: str, project: str) -> tuple[int, list[str]]:
    answer = ask(f"{index}{project}/", headers={"Accept": "text/html"}, timeout=60)
    return answer.status, re.findall(r">([^<]+\.whl)<", answer.text)


def install(index: str, project: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-cache-dir", "--retries", "0",
         "--target", folder, "--index-url", index, project],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def upload(home, index: str, name: str, data: bytes, user: str = "vaultbuild") -> int:
    """Do what docs/caches.md says, to the letter."""
    wheel = home / name
    wheel.write_bytes(data)
    secret = home / f"cache/var/pypi/server/{user}.secret"
    project, version, *_ = name.split("-")
    script = (
        f'printf \'user = "{user}:%s"\' "$(cat {secret})" | curl --silent --config - '
        "--output /dev/null --write-out '%{http_code}' "
        f"--form :action=file_upload --form name={project} --form version={version} "
        f"--form content=@{wheel} {index.removesuffix('+simple/')}"
    )
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_the_index_has_what_upstream_has_and_keeps_it(home, origin, tmp_path):
    with pypi(home) as endpoints:
        assert endpoints.pypi.endswith("/vaultbuild/private/+simple/")
        assert install(endpoints.pypi, "alpha", tmp_path / "one").returncode == 0
        answer = ask(
            f"{endpoints.pypi}alpha/", headers={"Accept": "application/vnd.pypi.simple.v1+json"}
        )
        assert [file["filename"] for file in answer.json()["files"]] == [ALPHA]
    origin.asked.clear()
    with pypi(home) as endpoints:
        assert install(endpoints.pypi, "alpha", tmp_path / "two").returncode == 0
    assert f"/files/{ALPHA}" not in origin.asked


def test_offline_what_is_kept_is_served_and_upstream_is_not_asked(home, origin, tmp_path):
    with pypi(home) as endpoints:
        install(endpoints.pypi, "alpha", tmp_path / "one")
        page(endpoints.pypi, "beta")
    origin.asked.clear()
    with pypi(home, offline=True) as endpoints:
        assert install(endpoints.pypi, "alpha", tmp_path / "two").returncode == 0
        # Its page is there, its file is not: so it is not offered.
        assert page(endpoints.pypi, "beta")[1] == []
        assert page(endpoints.pypi, "ours")[0] == 502
        assert [each.offline for each in caches.status({}, home, ["pypi"])] == [True]
    assert origin.asked == []


def test_a_server_that_nobody_uses_starts_again_in_the_other_mode(home, caplog):
    before = caches.up({}, home, ["pypi"])[0]
    with pypi(home, offline=True) as endpoints:
        now = caches.status({}, home, ["pypi"])[0]
        assert (now.offline, now.url, now.stays) == (True, endpoints.pypi, True)
        assert now.process != before.process
        with pypi(home) as second:
            # Somebody uses it: it is shared, and the second run is told.
            assert second == endpoints
    assert "runs offline, not online" in caplog.text
    with pypi(home):
        assert not caches.status({}, home, ["pypi"])[0].offline


def test_links_that_are_kept_are_served_while_upstream_is_in_trouble(home, origin, tmp_path):
    configuration = home / "cache/etc/devpi-server.yml"
    configuration.write_text(configuration.read_text() + "  mirror-cache-expiry: 0\n")
    with pypi(home) as endpoints:
        install(endpoints.pypi, "alpha", tmp_path / "one")
        origin.status = 503
        assert install(endpoints.pypi, "alpha", tmp_path / "two").returncode == 0
        # Left to itself, the index in front of the mirror says "no such project" here.
        assert page(endpoints.pypi, "beta")[0] == 502
        mirror = endpoints.pypi.replace("vaultbuild/private", mirror_of(endpoints))
        assert page(mirror, "beta")[0] == 502
        origin.status = 200
        assert page(endpoints.pypi, "beta") == (200, ["beta-1.0-py3-none-any.whl"])
        assert page(endpoints.pypi, "nowhere")[0] == 404


def mirror_of(endpoints) -> str:
    server = endpoints.pypi.removesuffix("vaultbuild/private/+simple/")
    return ask(f"{server}vaultbuild/private?no_projects=").json()["result"]["bases"][0]


# --- what is private ------------------------------------------------------------------------------


def test_an_uploaded_package_wins_whatever_upstream_has(home, made_wheel, tmp_path):
    with pypi(home) as endpoints:
        assert page(endpoints.pypi, "ours") == (200, ["ours-99.0-py3-none-any.whl"])
        wheel = made_wheel("ours", "1.0", b"private")
        assert upload(home, endpoints.pypi, "ours-1.0-py3-none-any.whl", wheel) == 200
        assert page(endpoints.pypi, "ours") == (200, ["ours-1.0-py3-none-any.whl"])
        install(endpoints.pypi, "ours", tmp_path / "one")
        assert (tmp_path / "one/ours.py").read_bytes() == b"private"
    # It is still there the next time, also where nothing else is.
    with pypi(home, offline=True) as endpoints:
        assert page(endpoints.pypi, "ours") == (200, ["ours-1.0-py3-none-any.whl"])


def test_what_was_uploaded_once_does_not_change(home, made_wheel):
    with pypi(home) as endpoints:
        name = "ours-1.0-py3-none-any.whl"
        assert upload(home, endpoints.pypi, name, made_wheel("ours", "1.0", b"one")) == 200
        assert upload(home, endpoints.pypi, name, made_wheel("ours", "1.0", b"two")) == 409


def test_a_change_of_upstream_keeps_what_was_uploaded(home, made_wheel, origin, monkeypatch):
    with pypi(home) as endpoints:
        first = mirror_of(endpoints)
        upload(home, endpoints.pypi, "own-1.0-py3-none-any.whl", made_wheel("own", "1.0", b"x"))
    monkeypatch.setenv("PIP_INDEX_URL", f"{origin.url}/simple/../simple/")
    with pypi(home) as endpoints:
        assert mirror_of(endpoints) != first
        assert page(endpoints.pypi, "own") == (200, ["own-1.0-py3-none-any.whl"])


def test_a_guest_can_read_and_do_nothing_else(home, made_wheel):
    with pypi(home) as endpoints:
        server = endpoints.pypi.removesuffix("vaultbuild/private/+simple/")
        index = ask(f"{server}vaultbuild/private?no_projects=").json()["result"]
        assert index["acl_upload"] == index["acl_toxresult_upload"] == ["vaultbuild"]
        assert (index["mirror_whitelist"], index["volatile"]) == ([], False)
        assert ask(f"{server}guest", method="PUT", body={"password": "guest"}).status == 403
        assert ask(
            f"{server}vaultbuild/private", method="PATCH", body=["volatile=True"]
        ).status in {
            401,
            403,
        }
        for user in ("root", "vaultbuild"):
            login = {"user": user, "password": ""}
            assert ask(f"{server}+login", method="POST", body=login).status == 401
        (home / "cache/var/pypi/server/guest.secret").write_text("guest")
        wheel = made_wheel("evil", "1.0", b"")
        assert upload(home, endpoints.pypi, "evil-1.0-py3-none-any.whl", wheel, "guest") in {
            401,
            403,
        }


def test_who_may_upload_may_not_change_the_indexes(home):
    with pypi(home) as endpoints:
        server = endpoints.pypi.removesuffix("vaultbuild/private/+simple/")
        told = {"user": "vaultbuild"}
        told["password"] = (home / "cache/var/pypi/server/vaultbuild.secret").read_text()
        token = ask(f"{server}+login", method="POST", body=told).json()["result"]["password"]
        import base64

        headers = {"X-Devpi-Auth": base64.b64encode(f"vaultbuild:{token}".encode()).decode()}
        change = ["mirror_whitelist=*"]
        answer = ask(f"{server}vaultbuild/private", method="PATCH", body=change, headers=headers)
        assert answer.status == 403


# --- secrets --------------------------------------------------------------------------------------


def test_the_password_of_the_upstream_index_is_used_and_told_to_nobody(
    home, origin, monkeypatch, tmp_path
):
    origin.user = f"me:{SECRET}"
    monkeypatch.setenv("PIP_INDEX_URL", f"{origin.url}/simple/".replace("//", f"//me:{SECRET}@", 1))
    with pypi(home) as endpoints:
        assert install(endpoints.pypi, "alpha", tmp_path / "one").returncode == 0
        server = endpoints.pypi.removesuffix("vaultbuild/private/+simple/")
        pages = [server, f"{server}+status", f"{server}root", f"{server}{mirror_of(endpoints)}"]
        pages += [f"{endpoints.pypi}alpha/", f"{server}vaultbuild"]
        assert not [url for url in pages if SECRET in ask(url).text]
        arguments = [
            file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if readable(file)
        ]
        assert not [line for line in arguments if SECRET.encode() in line]
    holding = [path for path in (home / "cache/var").rglob("*") if holds(path, SECRET)]
    assert holding == []


def readable(file: Path) -> bool:
    try:
        return bool(file.read_bytes())
    except OSError:
        return False


def holds(path: Path, secret: str) -> bool:
    return path.is_file() and secret.encode() in path.read_bytes()


def test_the_password_of_one_upstream_is_not_sent_to_another(home, origin, monkeypatch):
    with pypi(home) as endpoints:
        older = mirror_of(endpoints)
    origin.user = f"me:{SECRET}"
    other = f"{origin.url}/simple/../simple/".replace("//", f"//me:{SECRET}@", 1)
    monkeypatch.setenv("PIP_INDEX_URL", other)
    with pypi(home) as endpoints:
        assert page(endpoints.pypi.replace("vaultbuild/private", older), "beta")[0] == 502


# --- what is kept ---------------------------------------------------------------------------------


def test_a_deleted_file_is_fetched_again_and_a_flipped_bit_is_handed_out(home, origin, tmp_path):
    """If the second half fails, devpi-server has learnt to check: docs/caches.md says it."""
    with pypi(home) as endpoints:
        install(endpoints.pypi, "alpha", tmp_path / "one")
        [kept] = (home / "cache/var/pypi/server/+files").rglob(ALPHA)
        kept.unlink()
        assert install(endpoints.pypi, "alpha", tmp_path / "two").returncode == 0
        assert origin.asked.count(f"/files/{ALPHA}") == 2
        kept.write_bytes(kept.read_bytes()[:-1] + b"X")
        failed = install(endpoints.pypi, "alpha", tmp_path / "three")
        assert "THESE PACKAGES DO NOT MATCH THE HASHES" in failed.stderr


def test_the_server_starts_without_the_file_that_it_fetched_last(home, tmp_path):
    with pypi(home) as endpoints:
        assert install(endpoints.pypi, "alpha", tmp_path / "a").returncode == 0
    (kept,) = home.glob("cache/var/pypi/server/+files/**/*.whl")
    kept.unlink()
    with pypi(home) as endpoints:
        assert install(endpoints.pypi, "alpha", tmp_path / "b").returncode == 0
    assert kept.is_file()


def test_files_of_the_mirror_are_pruned_and_what_was_uploaded_is_not(
    home, origin, made_wheel, tmp_path
):
    with pypi(home) as endpoints:
        install(endpoints.pypi, "alpha", tmp_path / "one")
        upload(home, endpoints.pypi, "own-1.0-py3-none-any.whl", made_wheel("own", "1.0", b"x"))
    assert caches.holds(home, ["pypi"])["pypi"].files == 2
    caches.prune(home, ["pypi"], Rules(now=time.time() + 100, max_bytes=0))
    assert caches.holds(home, ["pypi"])["pypi"].files == 1
    with pypi(home) as endpoints:
        assert page(endpoints.pypi, "own") == (200, ["own-1.0-py3-none-any.whl"])
        assert install(endpoints.pypi, "alpha", tmp_path / "two").returncode == 0
    digest = hashlib.sha256(origin.files[f"/files/{ALPHA}"]).hexdigest()
    [found] = (home / "cache/var/pypi/server/+files").rglob(ALPHA)
    assert hashlib.sha256(found.read_bytes()).hexdigest() == digest
