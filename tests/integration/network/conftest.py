"""Archives, indexes and guests as small as can be, with all that is real between them.

::

    apt-get, pip ──► gateway, as a build has it ──► apt-cacher-ng, devpi ──► tests/faulty.py
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import lzma
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from builder import caches, network, ports
from builder.failures import diagnose
from builder.fetch.breaker import Breakers
from builder.project import Project
from builder.reporter import Reporter
from builder.supplies import Supplies

ROOT = Path(__file__).resolve().parents[3]
# More than the gateway passes on at a time, so that it may break in the middle.
SIZE = 600_000
_PORTS = "AllowUserPorts: 80 443\n"
_PATIENCE = "NetworkTimeout: 30\n"


def noise(word: str) -> bytes:
    """Return bytes that compress no further."""
    return random.Random(word).randbytes(SIZE)  # noqa: S311 - no secret


# --- a Debian archive -----------------------------------------------------------------------------


@functools.cache
def deb(name: str, version: str) -> bytes:
    """Return a package that holds nothing but noise."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "tree")
        (folder / "DEBIAN").mkdir(parents=True)
        (folder / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
            "Maintainer: Nobody <nobody@mirror.example>\nDescription: noise\n"
        )
        (folder / "noise").write_bytes(noise(name + version))
        made = Path(place, "made.deb")
        argv = ["dpkg-deb", "-Znone", "--root-owner-group", "--build", folder, made]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        return made.read_bytes()


@pytest.fixture(scope="session")
def signer(tmp_path_factory, require_program):
    """Someone who signs releases: ``key`` is the file that apt trusts."""
    require_program("gpg")
    found = Signer(tmp_path_factory.mktemp("gpg", numbered=True))
    yield found
    found.gpg("--kill", "all", program="gpgconf")


class Signer:
    def __init__(self, home: Path) -> None:
        home.chmod(0o700)
        self.home, self.key = home, home / "archive.gpg"
        self.gpg("--passphrase", "", "--quick-gen-key", "archive@mirror.example", "ed25519")
        self.key.write_bytes(self.gpg("--export"))

    def gpg(self, *words: str, program: str = "gpg", data: bytes = b"") -> bytes:
        argv = [program, *(["--batch", "--quiet"] if program == "gpg" else []), *words]
        env = {"PATH": os.environ["PATH"], "GNUPGHOME": str(self.home)}
        return subprocess.run(argv, input=data, env=env, check=True, stdout=subprocess.PIPE).stdout

    def signed(self, text: str) -> bytes:
        return self.gpg("--clearsign", data=text.encode())


class Archive:
    """The archive at ``root`` of a server, with one suite: ``trixie``."""

    def __init__(self, upstream, signer, root: str = "/debian") -> None:
        self.upstream, self.signer, self.root = upstream, signer, root
        self.packages: dict[str, str] = {}
        self.release = f"{root}/dists/trixie/InRelease"
        self.list = ""  # the path by hash of the list of packages
        self._renewed = 0
        self._replaced: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return self.upstream.url + self.root

    def deb(self, name: str) -> str:
        """Return the path of a package's file."""
        return f"{self.root}/pool/main/{name}_{self.packages[name]}_all.deb"

    def publish(self, **packages: str) -> None:
        """Have packages in these versions, beside those that are there."""
        self.packages |= packages
        for name, version in packages.items():
            self.upstream.put(self.deb(name), deb(name, version))
        plain = "\n".join(map(self._paragraph, self.packages)).encode()
        packed = lzma.compress(plain)
        digest = hashlib.sha256(packed).hexdigest()
        folder = f"{self.root}/dists/trixie/main/binary-amd64"
        self.list = f"{folder}/by-hash/SHA256/{digest}"
        self._renewed += 1
        moment = time.time() - 86400 + 3600 * self._renewed
        for path in (self.list, f"{folder}/Packages.xz"):
            self.upstream.put(path, packed, modified=moment)
        date = time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(moment))
        text = (
            f"Suite: trixie\nCodename: trixie\nDate: {date}\nArchitectures: amd64\n"
            "Components: main\nAcquire-By-Hash: yes\n"
            f"SHA256:\n {digest} {len(packed)} main/binary-amd64/Packages.xz\n"
            # apt takes no list whose unpacked form is not there as well.
            f" {hashlib.sha256(plain).hexdigest()} {len(plain)} main/binary-amd64/Packages\n"
        )
        self.upstream.put(self.release, self.signer.signed(text), modified=moment)

    def replace(self, name: str) -> bytes:
        """Have other bytes at the place of a package, as vendors do."""
        other = deb(name, self.packages[name])[:-1] + b"?"
        self._replaced[name] = other
        self.publish()
        self.upstream.put(self.deb(name), other)
        return other

    def _paragraph(self, name: str) -> str:
        data = self._replaced.get(name) or deb(name, self.packages[name])
        return (
            f"Package: {name}\nVersion: {self.packages[name]}\nArchitecture: all\n"
            f"Filename: {self.deb(name).removeprefix(self.root + '/')}\nSize: {len(data)}\n"
            f"SHA256: {hashlib.sha256(data).hexdigest()}\nDescription: noise\n"
        )


@pytest.fixture
def upstream(upstreams):
    """A server where apt-cacher-ng finds it: it reaches no port above 32767."""
    return upstreams(port=ports.free())


@pytest.fixture
def archive(upstream, signer) -> Archive:
    """An archive with two packages."""
    found = Archive(upstream, signer)
    found.publish(alpha="1.0", beta="1.0")
    return found


@pytest.fixture
def mirror_of(upstreams):
    """Call it with an archive: returns a server that has all of it below ``/copy``."""

    def copy(archive: Archive):
        found = upstreams(port=ports.free())
        for path in (archive.release, archive.list, *map(archive.deb, archive.packages)):
            found.put(path.replace(archive.root, "/copy", 1), archive.upstream.files[path].data)
        return found

    return copy


# --- a project and its caches ---------------------------------------------------------------------


class Listening(Reporter):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)

    warning = note


@dataclass
class Desk:
    """A project whose pipeline fetches from the archive; its caches are real and its own."""

    folder: Path
    archive: Archive
    reporter: Listening = field(default_factory=Listening)

    @property
    def project(self) -> Project:
        return Project(self.folder)

    @property
    def var(self) -> Path:
        return self.folder / "cache/var"

    @property
    def said(self) -> str:
        return "\n".join(self.reporter.said)

    def configure(self, old: str, new: str, file: str = "cache/etc/apt-cacher-ng/acng.conf"):
        text = (self.folder / file).read_text()
        assert old in text
        (self.folder / file).write_text(text.replace(old, new))

    @contextlib.contextmanager
    def supplies(self, *, names=("apt",), offline=False):
        pipeline = self.project.pipeline
        with caches.running(
            pipeline.caches, self.folder, names=names, offline=offline
        ) as endpoints:
            yield Supplies(pipeline, self.var, endpoints, self.reporter, offline=offline)

    @contextlib.contextmanager
    def guest(self, name="guest", *, stage=None, **options):
        """A guest behind a gateway, as a build has it."""
        with (
            self.supplies(**options) as supplies,
            self.behind(supplies, name, stage=stage) as guest,
        ):
            yield guest

    @contextlib.contextmanager
    def behind(self, supplies, name="guest", *, stage=None):
        journal = self.folder / f"{name}.jsonl"
        with supplies.served(stage, journal) as seen:
            yield Guest(self.folder / name, seen, journal, self.archive)

    def kept(self, path: str) -> Path:
        """Return where apt-cacher-ng keeps what has a path upstream."""
        return self.var / "apt/packages/127.0.0.1" / path.lstrip("/")

    @property
    def quarantined(self) -> list[str]:
        return sorted(path.name for path in self.var.glob("quarantine/*/*"))

    @property
    def breakers(self):
        return Breakers(self.var / "run/breakers").states()

    def half(self) -> list[Path]:
        """Return what is half written anywhere."""
        return [path for path in self.var.rglob("*") if ".partial" in path.name]


@pytest.fixture
def desk(project, archive, tmp_path, require_program, monkeypatch):
    for program in ("apt-cacher-ng", "apt-get", "dpkg-deb"):
        require_program(program)
    # Nothing of this host's own.
    (tmp_path / "apt.conf").touch()
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    folder = project(
        {
            "stages/pipeline.yml": (
                "packages: [linux-image-amd64, python3=3.13.5-1]",
                f'packages: [alpha], mirrors: ["deb {archive.url} trixie main"]',
            )
        }
    )
    shutil.copytree(ROOT / "cache/etc", folder / "cache/etc")
    found = Desk(folder, archive)
    port = archive.upstream.address.rpartition(":")[2]
    found.configure(_PORTS, f"AllowUserPorts: 80 443 {port}\n")
    found.configure(_PATIENCE, "NetworkTimeout: 2\n")
    yield found
    caches.down({}, folder)
    assert found.half() == []


# --- guests ---------------------------------------------------------------------------------------


@dataclass
class Ran:
    """What a program said, and how it ended."""

    status: int
    output: str
    began: float
    ended: float = field(default_factory=time.time)

    @property
    def why(self) -> str | None:
        """The rule of builder/failures.yml that explains it."""
        found = diagnose(self.output, "role")
        return found.rule if found else None

    @property
    def passes(self) -> bool:
        found = diagnose(self.output, "role")
        return bool(found and found.passes)


class Guest:
    """Someone with apt-get and pip, who knows the gateway and nothing else."""

    def __init__(self, root: Path, seen, journal: Path, archive: Archive) -> None:
        self.root, self.seen, self._journal = root, seen, journal
        self._archive = archive
        folders = "etc/apt/preferences.d", "var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache"
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "var/lib/dpkg/status").touch()
        (root / "etc/apt/sources.list").write_text(
            f"deb [signed-by={archive.signer.key}] {archive.url} trixie main\n"
        )
        self._files = root / "got"
        self._files.mkdir(exist_ok=True)

    def apt(self, *words: str) -> Ran:
        settings = {
            "Dir": self.root, "Dir::State::status": self.root / "var/lib/dpkg/status",
            "Dir::Bin::methods": "/usr/lib/apt/methods", "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root", "Acquire::http::Proxy": self.seen.apt,
            "Acquire::Retries": 3, "Acquire::Retries::Delay": "false",
            "Acquire::http::Timeout": 20, "Acquire::Languages": "none",
        }  # fmt: skip
        options = [word for pair in settings.items() for word in ("-o", "{}={}".format(*pair))]
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "APT_CONFIG": os.environ["APT_CONFIG"]}
        began = time.time()
        done = subprocess.run(
            ["apt-get", "-q", *options, *words], cwd=self._files, env=env, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        return Ran(done.returncode, done.stdout, began)

    def update(self) -> Ran:
        # Else a list that is missing is a warning.
        return self.apt("update", "-o", "APT::Update::Error-Mode=any")

    def download(self, *names: str) -> Ran:
        return self.apt("download", *names)

    def well(self, *names: str) -> None:
        """Update and download, which has to end well."""
        for ran in (self.update(), *([self.download(*names)] if names else [])):
            assert ran.status == 0, ran.output
        for name in names:
            assert self.got(name) == deb(name, self._archive.packages[name])

    def pip(self, lock: Path, **environment: str) -> Ran:
        """Install a lock file from the index of the gateway, or from what the environment says."""
        target = Path(tempfile.mkdtemp(dir=self.root))
        argv = [
            sys.executable, "-m", "pip", "--isolated", "install", "--no-deps", "--no-cache-dir",
            "--disable-pip-version-check", "--target", target, "--require-hashes", "-r", lock,
        ]  # fmt: skip
        env = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(self.root)}
        if not environment:
            argv += ["--index-url", self.seen.pypi]
        else:
            argv.remove("--isolated")
        began = time.time()
        done = subprocess.run(
            argv, env={**env, **environment}, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.installed = sorted(path.name for path in target.glob("*.py"))
        return Ran(done.returncode, done.stdout, began)

    def got(self, name: str) -> bytes | None:
        found = list(self._files.glob(f"{name}_*.deb"))
        return found[0].read_bytes() if found else None

    @property
    def journal(self):
        return network.read_journal(self._journal)

    def handed(self, path: str) -> list[str]:
        """Return from where something was handed out, each time, with the bytes of upstream."""
        found = [each for each in self.wrote("handed") if each.url.endswith(path)]
        data = self._archive.upstream.files[path].data
        for each in found:
            assert each.sha256 == hashlib.sha256(data).hexdigest()
            assert each.bytes == len(data)
        return [each.origin for each in found]

    def wheel(self, name: str) -> list[tuple[str, str]]:
        """Return from where a wheel was handed out, each time, and with which digest."""
        found = [each for each in self.wrote("handed") if f"/{name}-1.0-" in each.url]
        return [(each.origin, each.sha256) for each in found]

    def wrote(self, what: str):
        return [each for each in self.journal if each.what == what]
