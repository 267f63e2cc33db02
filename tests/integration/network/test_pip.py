"""pip through the gateway and devpi-server, or from a house of wheels, while the index fails."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pytest

from builder import network
from builder.errors import Interrupted, ProvisionError
from builder.failures import explained
from builder.needs import FileNeed, Needs, Target
from builder.prefetch import Warmed
from builder.provide import BudgetError, Means, provide

pytestmark = pytest.mark.integration

# More than the gateway passes on at a time.
SIZE = 600_000


# --- a simple index -------------------------------------------------------------------------------


def wheel(name: str) -> bytes:
    """Return a wheel that pip installs; the same bytes each time."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": f"text = {name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = (f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = "".join(lines) + f"{info}/RECORD,,\n"
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
        # More than the gateway passes on at a time.
        archive.writestr(zipfile.ZipInfo(f"{name}.bin"), name.encode() * (SIZE // len(name)))
    return target.getvalue()


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


class Index:
    """A simple index on the upstream, below ``/simple/``."""

    def __init__(self, upstream) -> None:
        self.upstream = upstream

    @property
    def url(self) -> str:
        return f"{self.upstream.url}/simple/"

    def add(self, *names: str) -> None:
        for name in names:
            digest = self.upstream.put(self.file(name), wheel(name))
            link = (
                f'<a href="../..{self.file(name)}#sha256={digest}">{name}-1.0-py3-none-any.whl</a>'
            )
            page = f"<!DOCTYPE html><html><body>{link}</body></html>"
            kind = {"Content-Type": "text/html"}
            self.upstream.put(self.page(name), page.encode(), headers=kind)

    def page(self, name: str) -> str:
        return f"/simple/{name}/"

    def file(self, name: str) -> str:
        return f"/files/{name}-1.0-py3-none-any.whl"

    def lock(self, path: Path, *names: str) -> Path:
        """Write a lock file."""
        lines = (f"{name}==1.0 --hash=sha256:{self.digest(name)}\n" for name in names)
        path.write_text("".join(lines))
        return path

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.upstream.files[self.file(name)].data).hexdigest()


@pytest.fixture
def index(desk, upstream, require_program, monkeypatch) -> Index:
    require_program("devpi-server")
    found = Index(upstream)
    monkeypatch.setenv("PIP_INDEX_URL", found.url)
    desk.configure("request-timeout: 30", "request-timeout: 2", "cache/etc/devpi-server.yml")
    return found


# --- faults ---------------------------------------------------------------------------------------


def fault(what: str, upstream, path: str, after: int, other: bytes | None = None) -> None:
    """Let something happen once, or for the length of one answer."""
    {
        "reset": lambda: upstream.reset(path, times=1),
        "broken": lambda: upstream.reset(path, after=after, times=1),
        "truncated": lambda: upstream.truncate(path, after=after, times=1),
        "busy": lambda: upstream.status(path, 503, times=1),
        "waiting": lambda: upstream.status(path, 503, retry_after=1, times=1),
        "wrong": lambda: upstream.corrupt(path, other, times=1),
        "hanging": lambda: upstream.hang(path, after=after, times=1),
        "slow": lambda: upstream.drip(path, count=100_000, seconds=0.02, times=1),
    }[what]()


FAULTS = ("reset", "broken", "truncated", "busy", "waiting", "wrong", "hanging", "slow")


def test_wheels_arrive_whatever_happens_to_them_and_their_pages(desk, index, tmp_path):
    for what in FAULTS:
        index.add(f"page{what}", f"file{what}")
        fault(what, index.upstream, index.page(f"page{what}"), 100)
        # Wrong bytes that left already cannot be taken back: those at the end can.
        data = index.upstream.files[index.file(f"file{what}")].data
        end = data[:-1] + bytes([data[-1] ^ 1])
        fault(what, index.upstream, index.file(f"file{what}"), 400_000, end)
    names = [f"{kind}{what}" for kind in ("page", "file") for what in FAULTS]
    lock = index.lock(tmp_path / "lock", *names)
    with desk.supplies(names=("pypi",)) as supplies:
        with desk.behind(supplies) as guest:
            ran = guest.pip(lock)
            assert ran.status == 0, ran.output
            assert guest.installed == sorted(f"{name}.py" for name in names)
            for name in names:
                assert guest.wheel(name) == [("upstream", index.digest(name))]
        damaged = desk.var.glob("pypi/server/+files/root/*/+f/*/*/filewrong-*.whl")
        (kept,) = damaged
        kept.write_bytes(b"X" + kept.read_bytes()[1:])
        with desk.behind(supplies, "next") as guest:
            assert guest.pip(lock).status == 0
            assert guest.wheel("filewrong") == [("upstream", index.digest("filewrong"))]
            assert guest.wheel("fileslow") == [("cache", index.digest("fileslow"))]
    assert kept.name in desk.quarantined
    assert f"{kept.name} in the pypi cache is damaged" in desk.said


def causes(ran, guest) -> tuple[str, bool]:
    """Return what a role that ran this would be said to have failed of, and whether that passes."""
    error = explained(
        ProvisionError("failed", stage="base", role="r", task=None), ran.output, "role"
    )
    journal = [each for each in guest.journal if ran.began <= each.time <= ran.ended]
    network.blame(error, journal, stage="base", role="r")
    return error.cause.rule, error.cause.passes


def test_what_is_gone_stays_wrong_or_is_down_is_told(desk, index, tmp_path):
    index.add("alpha", "beta", "gamma")
    index.upstream.status(index.file("beta"), 404)
    index.upstream.corrupt(index.file("gamma"))
    alpha = index.lock(tmp_path / "alpha", "alpha")
    with desk.guest(names=("pypi",)) as guest:
        assert guest.pip(alpha).status == 0
        found = {name: guest.pip(index.lock(tmp_path / name, name)) for name in ("beta", "gamma")}
        index.upstream.stop()
        # Its page is kept for half an hour.
        assert guest.pip(alpha).status == 0
        index.upstream.start()
        index.add("delta")
        index.upstream.status(index.page("delta"), 503)
        found["delta"] = guest.pip(index.lock(tmp_path / "delta", "delta"))
    assert {name: causes(ran, guest) for name, ran in found.items()} == {
        "beta": ("pip-file-gone", False),
        "gamma": ("download-broken", True),
        "delta": ("download-broken", True),
    }
    with desk.guest("offline", names=("pypi",), offline=True) as guest:
        assert guest.pip(alpha).status == 0
        assert guest.pip(tmp_path / "beta").status == 1
    assert guest.wheel("alpha") == [("cache", index.digest("alpha"))]
    assert any("beta" in each.url for each in guest.wrote("missing"))


# --- houses of wheels -----------------------------------------------------------------------------


def need() -> FileNeed:
    """Return the need of a role for the wheels of the project's lock file."""
    target = Target("{}.{}".format(*sys.version_info), "2.36")
    return FileNeed("base", "greeting", "x", Path("wheels.lock"), "0" * 64, target)


@pytest.fixture
def have(desk):
    """Have the wheels of the project's lock file ready; return the supplies of a guest with it."""

    def run(supplies, *, offline=False):
        with supplies.served(None, desk.folder / "provide.jsonl") as seen:
            index = supplies.index(seen)
            means = Means(desk.folder, index, {}, desk.reporter.note, offline=offline)
            done = provide(Needs((need(),), (), None), means)
        return done, dataclasses.replace(supplies, houses=done.houses)

    return run


def test_a_house_has_all_wheels_whatever_happens_to_them_once(desk, index, have):
    index.add("alpha", "beta", "gamma")
    lock = index.lock(desk.folder / "wheels.lock", "alpha", "beta", "gamma")
    index.upstream.reset(index.page("alpha"), times=1)
    index.upstream.truncate(index.file("alpha"), after=400_000, times=1)
    index.upstream.corrupt(index.file("beta"), times=1)
    index.upstream.status(index.file("gamma"), 503, times=1)
    with desk.supplies(names=("pypi", "wheels")) as supplies:
        done, served = have(supplies)
        assert done.failed == {}
        install_from_house(desk, served, lock, "first")
        (kept,) = desk.var.glob("wheels/files/*/beta-*.whl")
        kept.write_bytes(b"X" + kept.read_bytes()[1:])
        (house,) = have(supplies)[0].wheels
        assert house.spoiled == 1
        assert kept.name in desk.quarantined
        install_from_house(desk, served, lock, "second")
    index.upstream.stop()
    with desk.supplies(names=("wheels",), offline=True) as supplies:
        _, served = have(supplies, offline=True)
        install_from_house(desk, served, lock, "third")


def install_from_house(desk, supplies, lock, name) -> None:
    """Let a guest install the lock file, with no index at all."""
    with desk.behind(supplies, name) as guest:
        told = supplies.environment("base", "greeting", guest.seen)
        ran = guest.pip(lock, **told)
        assert ran.status == 0, ran.output
        assert guest.installed == ["alpha.py", "beta.py", "gamma.py"]
    ((house,),) = supplies.houses.values()
    found = [each for each in guest.wrote("handed") if each.url.endswith(".whl")]
    assert {each.cache for each in found} == {"wheels"}
    names = sorted(each.url for each in found)
    assert names == [f"{house}/{each}-1.0-py3-none-any.whl" for each in ("alpha", "beta", "gamma")]


def test_wheels_that_cannot_be_had_are_told_and_the_role_uses_the_index(desk, index, have):
    index.add("alpha")
    index.lock(desk.folder / "wheels.lock", "alpha")
    index.upstream.status(index.file("alpha"), 404)
    with desk.supplies(names=("pypi", "wheels")) as supplies:
        done, _ = have(supplies)
    assert done.houses == {}
    assert list(done.failed) == ["wheels.lock"]
    assert "wheels.lock: its wheels cannot be had" in desk.said


@pytest.mark.parametrize("error", [Interrupted("stop"), BudgetError("enough")])
def test_who_says_stop_is_heard_while_wheels_come(desk, upstream, error):
    """A wheel that cannot be had is no error, but these are."""
    index = Index(upstream)
    index.add("alpha")
    index.lock(desk.folder / "wheels.lock", "alpha")

    def stop(_: int) -> None:
        raise error

    means = Means(desk.folder, index.url, {}, desk.reporter.note, progress=stop)
    with pytest.raises(type(error)):
        provide(Needs((need(),), (), None), means)
    # What came is kept, and gone on with.
    done = provide(Needs((need(),), (), None), dataclasses.replace(means, progress=None))
    assert (done.failed, len(done.houses)) == ({}, 1)


def test_wheels_that_cannot_be_had_fail_a_warming(desk, upstream):
    index = Index(upstream)
    index.add("alpha")
    index.lock(desk.folder / "wheels.lock", "alpha")
    upstream.status(index.file("alpha"), 404)
    means = Means(desk.folder, index.url, {}, desk.reporter.note)
    warmed = Warmed(provided=provide(Needs((need(),), (), None), means))
    (failed,) = warmed.failed
    assert (failed.want.cache, failed.want.url, failed.state) == ("wheels", "wheels.lock", "failed")
    assert "404" in failed.why
