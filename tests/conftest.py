"""What tests of every kind share: their order, programs that may be missing, a small project."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import lzma
import os
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The smallest project with all kinds of files: two stages, two variants, two roles.
MINIMAL_PROJECT = {
    "stages/pipeline.yml": """\
        schema: 1
        name: tiny
        version: "1.0.0"
        variant: one
        stages: [base, final]
        variants:
          one:
            source:
              bootstrap: {suite: trixie, packages: [linux-image-amd64, python3=3.13.5-1]}
          two:
            source:
              cloud_image:
                url: http://images.example/two.qcow2
                sha256: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        """,
    "stages/base/stage.yml": """\
        roles: [greeting]
        """,
    "stages/final/stage.yml": """\
        parent: base
        roles: [sealing]
        """,
    "ansible/roles/greeting/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              greeting_text: {type: str}
        """,
    "ansible/roles/greeting/defaults/main.yml": """\
        greeting_text: hello
        """,
    "ansible/roles/greeting/tasks/main.yml": """\
        - name: Greet
          ansible.builtin.debug:
            msg: "{{ greeting_text }}"
        """,
    "ansible/roles/sealing/meta/argument_specs.yml": """\
        argument_specs: {main: {options: {}}}
        """,
    "ansible/roles/sealing/tasks/main.yml": """\
        - name: Seal
          ansible.builtin.debug:
            msg: sealed
        """,
    "packer/stage.pkr.hcl.j2": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Write a small project and return its folder.

    Called with files that are added to the minimal project, or replace its own: a text is the
    file's content, a pair ``(old, new)`` an edit of it, ``None`` leaves the file out. Called again,
    it changes the same project.
    """
    root = tmp_path / "project"

    def write(files: Mapping[str, str | tuple[str, str] | None] = {}) -> Path:
        if not root.exists():
            _write_files(root, MINIMAL_PROJECT)
        _write_files(root, files)
        return root

    return write


def _write_files(root: Path, files: Mapping[str, str | tuple[str, str] | None]) -> None:
    for name, content in files.items():
        path = root / name
        if content is None:
            path.unlink()
            continue
        if isinstance(content, tuple):
            old, new = content
            assert old in path.read_text(), f"{name} has no {old!r} to replace"
            content = path.read_text().replace(old, new)  # noqa: PLW2901
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(content))


class Archives:
    """Debian archives that are so small that they stand here: ``pages`` are URLs and bytes."""

    def __init__(self) -> None:
        self.pages: dict[str, bytes] = {}

    def publish(
        self,
        suite: str,
        lists: Mapping[str, Mapping[str, str]],
        *,
        fields: str = "Acquire-By-Hash: yes\n",
        asked: str | None = None,
    ) -> list[dict[str, object]]:
        """Put a suite at a URL: by folder of a list, packages and versions.

        Returns what a guest that updated its lists and installed everything was handed, as
        entries of a network lock; ``asked`` is the suite's URL as that guest knows it.
        """
        found, root = "", suite.partition("/dists/")[0]
        files: dict[str, bytes] = {}
        for folder, packages in lists.items():
            content = "\n".join(_paragraph(*pair) for pair in packages.items())
            path = f"{folder}/Packages.xz".removeprefix("/")
            packed = lzma.compress(content.encode())
            digest = hashlib.sha256(packed).hexdigest()
            found += f" {digest} {len(packed)} {path}\n"
            by_hash = "by-hash" in fields.lower()
            name = f"{folder}/by-hash/SHA256/{digest}".removeprefix("/") if by_hash else path
            files[f"{suite}/{name}"] = packed
            for package, version in packages.items():
                files[f"{root}/{_file(package, version)}"] = b"deb"
        text = f"Suite: test\n{fields}SHA256:\n{found}"
        files = {f"{suite}/InRelease": text.encode(), **files}
        self.pages |= files
        return [
            {
                "cache": "apt", "url": url.replace(suite, asked) if asked else url,
                "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content),
                "kind": "file" if url.endswith(".deb") else "index", "from": "upstream",
                "role": None,
            }
            for url, content in files.items()
        ]  # fmt: skip


def _file(package: str, version: str) -> str:
    return f"pool/{package}_{version.rpartition(':')[2]}_amd64.deb"


def _paragraph(package: str, version: str) -> str:
    return (
        f"Package: {package}\nVersion: {version}\nArchitecture: amd64\n"
        f"Filename: {_file(package, version)}\nSize: 3\nSHA256: ab\n"
    )


@pytest.fixture
def archives() -> Archives:
    """Debian archives, as yet empty."""
    return Archives()


# --- an upstream that fails as it is told to ------------------------------------------------------


def _faulty():
    # The folders of the tests are no packages, so a file beside them is loaded by its path.
    if "faulty" not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            "faulty", Path(__file__).with_name("faulty.py")
        )
        sys.modules["faulty"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["faulty"])
    return sys.modules["faulty"]


@pytest.fixture
def upstreams():
    """Call it with files, ``{"/path": b"..."}``, for a server of tests/faulty.py that has them."""
    with contextlib.ExitStack() as stack:

        def start(files: Mapping[str, bytes] = {}, **settings):
            return stack.enter_context(_faulty().Upstream(files, **settings))

        yield start


@pytest.fixture
def upstream(upstreams):
    """A server of tests/faulty.py that has nothing yet."""
    return upstreams()


# --- order: what takes seconds comes first, the long part only when that is right -----------------

_TESTS = Path(__file__).parent
_ORDER = ("guards", "unit", "integration", "e2e")
_QUICK = 2  # of them


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if "long" not in config.option.markexpr:
        _leave_out(config, items, [item for item in items if item.get_closest_marker("long")])
    items.sort(key=_rank)


def _leave_out(config, items, unwanted):
    items[:] = [item for item in items if item not in unwanted]
    config.hook.pytest_deselected(items=unwanted)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    result = yield
    leaving_the_quick = nextitem is not None and _rank(item) < _QUICK <= _rank(nextitem)
    if leaving_the_quick and item.session.testsfailed:
        item.session.shouldfail = "guards or unit tests failed: the long tests were not started"
    return result


def _rank(item) -> int:
    if not item.path.is_relative_to(_TESTS):
        return len(_ORDER)
    folder = item.path.relative_to(_TESTS).parts[0]
    return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)


# --- programs: a missing one skips the test, and fails it where CI is set -------------------------


@pytest.fixture(scope="session")
def missing():
    """Call it with what is missing: the test is skipped, or fails in CI."""

    def report(what: str) -> None:
        if os.environ.get("CI"):
            pytest.fail(f"{what} (CI is set: nothing may be missing)", pytrace=False)
        pytest.skip(what)

    return report


@pytest.fixture(scope="session")
def require_program(missing):
    """Call it with the name of a program: returns its path."""

    def require(name: str) -> Path:
        # The environment of the tests first: the linters stand there, and often not on PATH.
        path = os.pathsep.join(
            [
                str(Path(sys.executable).parent),
                os.environ.get("PATH", os.defpath),
                "/usr/sbin:/sbin",
            ]
        )
        if not (found := shutil.which(name, path=path)):
            missing(f"{name} is not installed")
        return Path(found)

    return require


@pytest.fixture(scope="session")
def require_root(missing):
    """Call it where a test mounts disks or starts containers."""

    def require() -> None:
        if os.geteuid() != 0:
            missing("this needs root")

    return require
