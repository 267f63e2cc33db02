"""What the guards look at: the files of the repository, and the parsed modules among them."""

import ast
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Without git (a source archive) these hold what a checkout does not.
_NOT_OURS = {
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".ansible",
    "build",
    "dist",
    "__pycache__",
}


@dataclass(frozen=True)
class Module:
    """A Python file of ours; ``name`` is dotted, without the package's own ``builder``."""

    path: Path
    tree: ast.Module
    lines: int

    @property
    def name(self) -> str:
        parts = self.path.with_suffix("").parts
        return ".".join(part for part in parts[1:] if part != "__init__")

    def place(self, node: ast.AST) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> tuple[Path, ...]:
    """Every file of ours, relative to the root, committed or about to be."""
    # As root through sudo, git mistrusts a checkout that belongs to somebody else.
    git = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    try:
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        names = [
            p for p in found if not _NOT_OURS & set(p.parts) and p.parts[:2] != ("cache", "var")
        ]
    else:
        names = [Path(name) for name in listed.split("\0") if name]
    return tuple(sorted(path for path in set(names) if (ROOT / path).is_file()))


@pytest.fixture(scope="session")
def modules(files: tuple[Path, ...]) -> tuple[Module, ...]:
    """Every Python file of ours."""
    return tuple(_parse(path) for path in files if path.suffix == ".py")


def _parse(path: Path) -> Module:
    text = (ROOT / path).read_text()
    return Module(path, ast.parse(text, str(path)), text.count("\n"))


@pytest.fixture(scope="session")
def builder_modules(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """The modules of the driver."""
    return tuple(module for module in modules if module.path.parts[0] == "builder")


@pytest.fixture(scope="session")
def test_modules(modules: tuple[Module, ...]) -> tuple[Module, ...]:
    """The tests, and the checks of the stages."""
    return tuple(module for module in modules if module.path.parts[0] in {"tests", "stages"})
