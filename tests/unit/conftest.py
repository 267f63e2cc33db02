"""What unit tests share: a project to plan, and checks of the reference asked about tables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builder.errors import ProjectError
from builder.pipeline import load_pipeline

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).with_name("fake_guest.py")
# What a program answers when it could not ask (``answer`` in the machine.py of the stages).
UNKNOWN = "error: FileNotFoundError(2, 'No such file or directory')"
FAILURES = {"AssertionError", "Failed"}


@pytest.fixture
def problems() -> Callable[..., list[str]]:
    """Call it with a wrong project, and perhaps a variant: all that is told of it."""

    def told(root: Path, variant: str | None = None) -> list[str]:
        with pytest.raises(ProjectError) as caught:
            load_pipeline(root, variant)
        return [str(problem) for problem in caught.value.problems]

    return told


@pytest.fixture
def plannable(project, monkeypatch, tmp_path) -> Path:
    """A project with the templates of this repository, and a Packer that only tells its version."""
    (tmp_path / "bin").mkdir()
    packer = tmp_path / "bin/packer"
    packer.write_text("#!/bin/sh\necho Packer v1.6.6\n")
    packer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{packer.parent}:{os.environ['PATH']}")
    shutil.copytree(ROOT / "packer", project() / "packer", dirs_exist_ok=True)
    return project()


@dataclass(frozen=True)
class Judged:
    """What each check said in each case: ``found[case][check] = {"outcome": …, "line": …}``."""

    found: dict[str, dict[str, dict]] = field(repr=False)

    def having(self, case, *outcomes):
        return {name for name, one in self.found[case].items() if one["outcome"] in outcomes}

    def failed(self, case):
        return set(self.found[case]) - self.having(case, "passed", "skipped")

    def confused(self, case):
        """Checks that stumbled instead of saying what is wrong."""
        return self.failed(case) - self.having(case, *FAILURES)


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """Call it with a module that has ``CHECKS``, ``answer()``, ``SOUND`` and ``BROKEN``.

    And ``PROJECT_FILES``, where checks read files of the project: their contents by their paths.

    ``CHECKS`` is a file of checks. ``answer()`` is what they are told about a sound image: the
    variables under ``expected``, those of each use of a role under ``uses``, the GPUs with their
    compute capabilities under ``gpus``, the driver's branch with its CUDA under ``driver_cuda``,
    and the answer of each program under its file's name.
    ``SOUND`` and ``BROKEN`` list what is different in a case: see :func:`changed`.
    """
    known: dict[str, Judged] = {}

    def run(module) -> Judged:
        if module.CHECKS not in known:
            work = tmp_path_factory.mktemp("judged")
            for path, content in getattr(module, "PROJECT_FILES", {}).items():
                (work / path).parent.mkdir(parents=True, exist_ok=True)
                (work / path).write_bytes(content)
            known[module.CHECKS] = _asked(work, ROOT / module.CHECKS, _cases(module))
        return known[module.CHECKS]

    return run


def changed(old, change):
    """Return a document with a change.

    A dict goes deeper; a pair ``(before, after)`` replaces a part, an item of a list or a piece of
    a text: ``(None, after)`` adds an item, ``(before, None)`` takes it or the key of a dict away,
    ``(..., after)`` replaces the whole, as anything does that is no dict and no pair.
    """
    if isinstance(change, tuple):
        return _replaced(old, *change)
    if isinstance(change, dict) and isinstance(old, dict):
        return old | {key: changed(old.get(key), one) for key, one in change.items()}
    return change


def _replaced(old, before, after):
    if before is ...:
        return after
    assert before is None or before in old, f"{before!r} is not in {old!r}"
    if isinstance(old, str):
        return old.replace(before, after)
    if isinstance(old, dict):
        return {key: one for key, one in old.items() if key != before}
    kept = [
        after if one == before else one for one in [*old, *([before] if before is None else [])]
    ]
    return [one for one in kept if one is not None]


def _cases(module):
    sound = module.answer()
    cases = {name: changed(sound, changes) for name, (changes, *_) in module.SOUND.items()}
    cases |= {name: changed(sound, changes) for name, (changes, *_) in module.BROKEN.items()}
    programs = [name for name in sound if name.endswith(".py")]
    folder = (ROOT / module.CHECKS).parent
    answering = [name for name in programs if "\nASKED = " in (folder / name).read_text()]
    cases |= {f"{name} fails": {**sound, name: None} for name in programs}
    return cases | {
        f"{name} cannot tell {question}": changed(sound, {name: {question: UNKNOWN}})
        for name in answering
        for question in sound[name]
    }


def _asked(work, checks, cases) -> Judged:
    """Run the checks in a pytest of their own, on a copy as in a verification."""
    folder = work / checks.parent.relative_to(ROOT)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(checks.parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for lock in checks.parent.parent.glob("*.lock"):
        shutil.copy(lock, folder.parent)
    shutil.copy(GUEST, folder / "conftest.py")
    (work / "cases.json").write_text(json.dumps(cases))
    # Which checks there are is asked before any case.
    uses = next(iter(cases.values())).get("uses", {})
    (work / "context.json").write_text(json.dumps({"uses": uses}))
    argv = [
        sys.executable, "-m", "pytest", "-q", "--tb=native", "-p", "no:cacheprovider",
        "-p", "builder.checks", "--import-mode=importlib",
        "--rootdir", str(work), "--confcutdir", str(work), "-c", "/dev/null",
        str(folder / checks.name),
    ]  # fmt: skip
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTEST_ADDOPTS": "",
        "VAULTBUILD_CHECK_CONTEXT": str(work / "context.json"),
        "VAULTBUILD_CHECK_RESULTS": str(work / "results.json"),
    }
    done = subprocess.run(argv, env=env, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout[-4000:] + done.stderr
    return Judged(json.loads((work / "found.json").read_text()))
