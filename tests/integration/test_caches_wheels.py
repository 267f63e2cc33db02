"""Houses of wheels: filled from an index that misbehaves, used by the real pip and uv."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from builder import caches
from builder.caches import shelf, wheels
from builder.caches.wheels import Target
from builder.errors import ProjectError
from builder.fetch import FullError
from builder.fetch.transient import PermanentError, TransientError

pytestmark = pytest.mark.integration

TRIXIE = Target("3.13", "2.41")
HERE = Target(".".join(map(str, sys.version_info[:2])), "2.36")
JSON = "application/vnd.pypi.simple.v1+json"


def wheel(name: str, version: str, module: str = "") -> bytes:
    """Return a wheel that pip installs; the same bytes each time."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n{module}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_b64(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return target.getvalue()


def _b64(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Index:
    """An index of packages on an upstream that fails as it is told to."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.url = f"{upstream.url}/simple/"
        self.files: dict[str, dict[str, bytes]] = {}

    def add(self, project: str, name: str, content: bytes | None = None) -> str:
        """Put a file into the index; return its digest."""
        content = wheel(project, "1.0", name) if content is None else content
        files = self.files.setdefault(project, {})
        files[name] = content
        self.upstream.put(f"/files/{name}", content)
        listed = [
            {"filename": each, "url": f"../../files/{each}", "hashes": {"sha256": sha256(data)}}
            for each, data in files.items()
        ]
        page = {"meta": {"api-version": "1.0"}, "name": project, "files": listed}
        self.upstream.put(
            f"/simple/{project}/", json.dumps(page).encode(), headers={"Content-Type": JSON}
        )
        return sha256(content)

    def fetched(self) -> list[str]:
        """Return the files that were asked for."""
        paths = [request.path for request in self.upstream.requests]
        return [path.removeprefix("/files/") for path in paths if path.startswith("/files/")]


@pytest.fixture
def index(upstream):
    return Index(upstream)


@pytest.fixture
def var(tmp_path):
    return tmp_path / "var"


@pytest.fixture
def lock(tmp_path, index):
    """Write a lock file: requirements, each with digests."""

    def write(*lines: tuple[str, list[str]], head: str = "") -> Path:
        path = tmp_path / "requirements.lock"
        text = "".join(
            f"{requirement}" + "".join(f" \\\n    --hash=sha256:{one}" for one in digests) + "\n"
            for requirement, digests in lines
        )
        path.write_text(head + text)
        return path

    return write


@pytest.fixture
def ensure(index, var, downloads):
    def run(lock, target=HERE, **settings):
        return wheels.ensure(
            lock, target, index_url=index.url, fetcher=downloads, folder=var, **settings
        )

    return run


# --- which wheel ----------------------------------------------------------------------------------

NAMES = [
    "fast-1.0-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "fast-1.0-cp313-cp313-manylinux_2_39_x86_64.whl",
    "fast-1.0-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "fast-1.0-cp310-abi3-manylinux_2_28_x86_64.whl",
    "fast-1.0-cp313-cp313-musllinux_1_2_x86_64.whl",
    "fast-1.0-cp313-cp313-manylinux_2_17_aarch64.manylinux2014_aarch64.whl",
    "fast-1.0-cp313-cp313t-manylinux_2_17_x86_64.whl",
    "fast-1.0-py3-none-any.whl",
]
SDIST = "fast-1.0.tar.gz"


@pytest.mark.parametrize(
    ("target", "listed", "best"),
    [
        (TRIXIE, NAMES, "fast-1.0-cp313-cp313-manylinux_2_39_x86_64.whl"),
        (Target("3.13", "2.36"), NAMES, NAMES[0]),
        (Target("3.12", "2.39"), NAMES, NAMES[2]),
        (Target("3.11", "2.36"), NAMES, NAMES[3]),
        (Target("3.11", "2.27"), NAMES, "fast-1.0-py3-none-any.whl"),
        (TRIXIE, [NAMES[3], NAMES[7]], NAMES[3]),
    ],
)
def test_the_best_wheel_for_the_guest_is_taken(index, lock, ensure, target, listed, best):
    digests = {name: index.add("fast", name) for name in [*NAMES, SDIST]}
    house = ensure(lock(("fast==1.0", [digests[name] for name in [*listed, SDIST]])), target)
    assert [one.file for one in house.wheels] == [best]
    assert index.fetched() == [best]
    assert house.complete


def test_only_what_the_lock_lists_is_taken(index, lock, ensure):
    digests = {name: index.add("fast", name) for name in NAMES}
    assert ensure(lock(("fast==1.0", [digests[NAMES[7]]])), TRIXIE).wheels[0].file == NAMES[7]


@pytest.mark.parametrize("listed", [[SDIST], [NAMES[5], SDIST]])
def test_without_a_wheel_that_fits_the_house_says_so(index, lock, ensure, listed):
    digests = {name: index.add("fast", name) for name in [*NAMES, SDIST]}
    one = index.add("plain", "plain-1.0-py3-none-any.whl")
    path = lock(("plain==1.0", [one]), ("fast==1.0", [digests[name] for name in listed]))
    house = ensure(path, TRIXIE)
    assert [one.file for one in house.wheels] == ["plain-1.0-py3-none-any.whl"]
    assert not house.complete
    (missing,) = house.missing
    assert str(missing) == (
        "fast==1.0 (line 3): the lock lists no wheel that fits Python 3.13, glibc 2.41, x86_64"
    )


def test_a_project_that_the_index_does_not_know(lock, ensure):
    house = ensure(lock(("nobody==1.0", ["0" * 64])))
    assert "404" in house.missing[0].reason


def test_markers_are_asked_about_the_guest(index, lock, ensure):
    digest = index.add("old", "old-1.0-py3-none-any.whl")
    path = lock(("old==1.0 ; python_version < '3.12'", [digest]))
    assert ensure(path, Target("3.11", "2.36")).wheels
    house = ensure(path, TRIXIE)
    assert (house.wheels, house.missing) == ((), ())


def test_a_withdrawn_release_and_a_pre_release_can_be_pinned(index, lock, ensure, upstream):
    digest = index.add("rc", "rc-1.0rc1-py3-none-any.whl")
    page = json.loads(upstream.files["/simple/rc/"].data)
    page["files"][0]["yanked"] = "broken"
    upstream.put("/simple/rc/", json.dumps(page).encode(), headers={"Content-Type": JSON})
    assert ensure(lock(("rc==1.0rc1", [digest]))).complete


def test_two_targets_share_a_house(index, lock, ensure, var):
    digests = {name: index.add("fast", name) for name in NAMES}
    path = lock(("fast==1.0", list(digests.values())))
    first, second = ensure(path, TRIXIE), ensure(path, Target("3.12", "2.39"))
    assert first.folder == second.folder
    assert set(wheels.listing(first.folder)) == {first.wheels[0].file, second.wheels[0].file}
    index.upstream.requests.clear()
    ensure(path, TRIXIE)
    assert index.upstream.requests == []


# --- once, whole, right ---------------------------------------------------------------------------


@pytest.fixture
def two(index, lock):
    """A lock file with two wheels."""
    digests = [index.add(name, f"{name}-1.0-py3-none-any.whl") for name in ("one", "two")]
    return lock(("one==1.0", [digests[0]]), ("two==1.0", [digests[1]]))


def test_a_house_that_is_there_asks_nobody(two, ensure, index):
    first = ensure(two)
    assert first.received == first.bytes > 0
    index.upstream.requests.clear()
    again = ensure(two)
    assert index.upstream.requests == []
    assert (again.received, again.bytes, again.complete) == (0, first.bytes, True)
    offline = ensure(two, offline=True)
    assert offline.complete


def test_spoiled_bytes_are_found_put_aside_and_fetched_again(two, ensure, index, var, caplog):
    first = ensure(two)
    path = first.folder / "one-1.0-py3-none-any.whl"
    right = path.read_bytes()
    path.resolve().write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    index.upstream.requests.clear()
    again = ensure(two)
    assert again.spoiled == 1
    assert path.read_bytes() == right
    assert index.fetched() == ["one-1.0-py3-none-any.whl"]
    (evidence,) = [each for each in var.glob("quarantine/*/*") if each.name != "why"]
    for digest in (sha256(evidence.read_bytes()), sha256(right)):
        assert digest in evidence.with_name("why").read_text()
        assert digest in caplog.text
    assert sha256(evidence.read_bytes()) != sha256(right)


def test_offline_a_spoiled_one_is_missing(two, ensure, index):
    first = ensure(two)
    (first.folder / "one-1.0-py3-none-any.whl").resolve().write_bytes(b"spoiled")
    index.upstream.requests.clear()
    house = ensure(two, offline=True)
    assert index.upstream.requests == []
    assert [str(one) for one in house.missing] == ["one==1.0 (line 1): not in the cache"]
    with pytest.raises(shelf.NotCachedError, match=r"one==1\.0 \(line 1\)") as caught:
        house.require("stages/a/requirements.lock")
    assert "stages/a/requirements.lock" in caught.value.message
    assert "vaultbuild cache warm wheels, and --variant" in caught.value.hint
    assert "one-1.0-py3-none-any.whl" not in wheels.listing(house.folder)


def test_wrong_bytes_never_come_in(two, ensure, index, var):
    index.upstream.corrupt("/files/one-1.0-py3-none-any.whl")
    with pytest.raises(PermanentError, match="wanted"):
        ensure(two)
    assert not list(var.glob("wheels/files/*/one*"))


@pytest.mark.parametrize("fault", ["reset", "truncate", "status"])
def test_what_passes_is_passed_over(two, ensure, index, fault):
    path = "/files/one-1.0-py3-none-any.whl"
    settings = {"reset": {"after": 100}, "truncate": {"after": 100}, "status": {"status": 503}}
    getattr(index.upstream, fault)(path, **settings[fault], times=2)
    index.upstream.status("/simple/two/", 503, times=1)
    assert ensure(two).complete


def test_an_index_that_is_down_is_an_error_not_an_empty_house(two, ensure, index, var):
    index.upstream.status("/simple/two/", 503)
    with pytest.raises(TransientError, match="503"):
        ensure(two)
    index.upstream.heal()
    index.upstream.requests.clear()
    assert ensure(two).complete
    assert index.fetched() == ["two-1.0-py3-none-any.whl"], "what had come is there still"


def test_a_full_disk_stops_it(two, index, var, tmp_path):
    from builder.fetch import Fetcher
    from builder.fetch.breaker import Breakers

    full = Fetcher(breakers=Breakers(tmp_path / "b"), free=lambda _: 0)
    with pytest.raises(FullError):
        wheels.ensure(two, HERE, index_url=index.url, fetcher=full, folder=var)
    assert not list(var.glob("wheels/files/*/*.whl"))


def test_two_processes_fetch_once(two, index, var):
    program = (
        "import sys; from pathlib import Path\n"
        "from builder.caches import wheels\n"
        "from builder.fetch import Fetcher, Policy; from builder.fetch.breaker import Breakers\n"
        "lock, var = Path(sys.argv[1]), Path(sys.argv[2])\n"
        "f = Fetcher(breakers=Breakers(var / 'run/breakers'), policy=Policy(reserve=0))\n"
        "house = wheels.ensure(lock, wheels.Target('3.13', '2.41'), index_url=sys.argv[3],"
        " fetcher=f, folder=var)\n"
        "print(house.received)\n"
    )
    argv = [sys.executable, "-c", program, str(two), str(var), index.url]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    both = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    received = [int(one.communicate()[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert 0 in received
    assert sorted(index.fetched()) == ["one-1.0-py3-none-any.whl", "two-1.0-py3-none-any.whl"]


def test_a_lock_that_is_none(tmp_path, ensure):
    path = tmp_path / "requirements.lock"
    path.write_text("one==1.0\n= two\n")
    with pytest.raises(ProjectError) as caught:
        ensure(path)
    assert [problem.line for problem in caught.value.problems] == [1, 2]


def test_what_there_is_and_what_goes(two, ensure, var, index):
    house = ensure(two)
    one, other = wheels.items(var)
    assert one.bytes + other.bytes == house.bytes
    assert wheels.drop(var, one)
    assert wheels.items(var) == [other]
    assert house.folder.exists()
    index.upstream.requests.clear()
    assert ensure(two).complete, "what went is fetched again"
    assert len(index.fetched()) == 1
    assert [wheels.drop(var, item) for item in wheels.items(var)] == [True, True]
    assert wheels.items(var) == []
    assert not house.folder.exists(), "a house with nothing in it"


# --- through the server that builds use -----------------------------------------------------------


def test_through_devpi(two, ensure, index, var, downloads, tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    shutil.copytree(Path(__file__).parents[2] / "cache/etc", tmp_path / "cache/etc")
    with caches.running({}, tmp_path, names=["pypi"]) as endpoints:
        url = endpoints.urls["pypi"]
        house = wheels.ensure(two, HERE, index_url=url, fetcher=downloads, folder=var)
        assert house.complete
        assert sorted(index.fetched()) == sorted(one.file for one in house.wheels)
        shutil.rmtree(var / "wheels")
        index.upstream.stop()
        again = wheels.ensure(two, HERE, index_url=url, fetcher=downloads, folder=var)
        assert again.received == house.bytes, "from what devpi has"


# --- for guests -----------------------------------------------------------------------------------


@pytest.fixture
def guest(tmp_path, require_program):
    """Call it to install with pip or uv from a URL: returns what is installed, what was said."""

    def install(tool: str, url: str, lock: Path) -> tuple[list[str], str]:
        target = tmp_path / f"site-{tool}"
        program = [sys.executable, "-m", "pip"]
        words = ["install", "--target", str(target), "--no-index", "--find-links", url,
                 "--require-hashes", "-r", str(lock)]  # fmt: skip
        if tool == "uv":
            program = [require_program("uv"), "pip"]
            words += ["--python", sys.executable, "--no-cache"]
        env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_NO_CACHE_DIR": "1"}
        done = subprocess.run(
            [*program, *words], capture_output=True, text=True, check=False, env=env
        )
        installed = sorted(path.name for path in target.glob("*.dist-info"))
        return installed, done.stdout + done.stderr

    return install


@pytest.fixture(params=["pip", "uv"])
def tool(request, require_program):
    require_program(request.param)
    return request.param


def test_a_guest_installs_from_the_house_alone(two, ensure, var, serve, guest, tool, index):
    house = ensure(two)
    index.upstream.stop()
    url = f"{serve('wheels', var / 'wheels')}/{house.sha256}/"
    installed, said = guest(tool, url, two)
    assert installed == ["one-1.0.dist-info", "two-1.0.dist-info"], said


def test_a_guest_never_gets_spoiled_bytes(two, ensure, var, serve, guest, tool):
    house = ensure(two)
    (house.folder / "one-1.0-py3-none-any.whl").resolve().write_bytes(wheel("one", "1.0", "evil"))
    url = f"{serve('wheels', var / 'wheels')}/{house.sha256}/"
    installed, said = guest(tool, url, two)
    assert installed == []
    assert "404" in said


def test_the_page_is_one_of_links_with_digests(two, ensure, var, serve, get):
    house = ensure(two)
    root = serve("wheels", var / "wheels")
    page = get(f"{root}/{house.sha256}/").body.decode()
    (one, _) = house.wheels
    assert f'<a href="{one.file}#sha256={one.sha256}">{one.file}</a>' in page
    assert get(f"{root}/").body == b"vaultbuild wheels\n"


def test_nothing_but_wheels_of_houses_is_served(two, ensure, var, serve, get):
    house = ensure(two)
    (var / "secret").write_text("s")
    (house.folder / "other.whl").write_text("o")
    root = serve("wheels", var / "wheels")
    paths = [
        f"{house.sha256}/house.json", f"{house.sha256}/other.whl", f"{'0' * 64}/", "files/",
        "../secret", "%2e%2e/secret", f"{house.sha256}/../../../secret",
        f"{house.sha256}/..%2f..%2f..%2fsecret", f"{house.sha256}", "houses/",
    ]  # fmt: skip
    assert [get(f"{root}/{path}").status for path in paths] == [404] * len(paths)
    assert get(f"{root}/{house.sha256}/", method="DELETE").status == 405
