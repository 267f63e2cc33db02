"""The linters, each as a test: what they say is the message of the failure."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_SHELL = re.compile(rb"#!\s*/\S*\b(sh|bash|dash)\b")


@pytest.fixture
def lint(require_program, root):
    """Run a linter in the root of the repository; fail with its output."""

    def run(program: str, *arguments: str | Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            [require_program(program), *arguments],
            cwd=root,
            env={**os.environ, "PATH": path, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{program}:\n{done.stdout}{done.stderr}", pytrace=False)

    return run


def _having(files: tuple[Path, ...], *suffixes: str) -> list[Path]:
    return [path for path in files if path.suffix in suffixes]


def test_ruff(lint, files):
    lint("ruff", "check", "--no-fix", *_having(files, ".py"))


def test_ruff_format(lint, files):
    lint("ruff", "format", "--check", *_having(files, ".py"))


def test_mypy(lint):
    lint("mypy")


def test_yamllint(lint, files):
    lint("yamllint", "--strict", *_having(files, ".yml", ".yaml"))


def test_ansible_lint(lint):
    lint("ansible-lint", "--offline", "--nocolor", "ansible")


def test_shellcheck(lint, files, root):
    scripts = [
        path
        for path in files
        if path.suffix == ".sh"
        or (not path.suffix and _SHELL.match((root / path).read_bytes()[:64]))
    ]
    lint("shellcheck", *scripts)
