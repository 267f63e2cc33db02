"""Files of wishes and the locks that are made of them: ``requirements.in``, ``requirements.lock``.

The lock says in its first lines how it was made, as a comment::

    # Made by: uv pip compile --generate-hashes --python-version 3.13 --only-binary :all:

Those options are what the guest is (its Python, its platform), so they are taken from there. Only
options that choose versions are: a comment must not be able to write files or to name an index,
which is the host's (``pip config``).
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder import process
from builder.caches.models_lock import is_lock
from builder.errors import CommandError, HostError, Problem, ProjectError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MAKERS: Final = ("uv pip compile", "pip-compile")
# Without a value, and with one.
_FLAGS = {"--generate-hashes", "--no-annotate", "--no-header", "--universal", "--no-strip-extras",
          "--no-strip-markers", "--no-deps", "--no-build", "--allow-unsafe", "--strip-extras",
          "--quiet", "-q", "--upgrade", "-U"}  # fmt: skip
_VALUED = {"--python-version", "--python-platform", "--only-binary", "--no-binary", "--prerelease",
           "--resolution", "--exclude-newer", "--fork-strategy", "--extra"}  # fmt: skip
# What the maker wrote about itself, and is not needed to make it again.
_DROPPED = {"-q", "--quiet", "-U", "--upgrade", "--no-header", "--allow-unsafe", "--strip-extras",
            "--no-annotate"}  # fmt: skip
_DROPPED_VALUED = {"-o", "--output-file", "-c", "--custom-compile-command"}
_PATIENCE = 600


@dataclass(frozen=True, slots=True)
class Pair:
    """A file of wishes and its lock, relative to the project."""

    wishes: Path
    lock: Path


def pairs_in(folder: Path) -> list[Pair]:
    """Return the pairs below a project's ``stages``: each ``*.in`` with a ``.lock`` beside it."""
    found = sorted((folder / "stages").rglob("*.in"))
    return [
        Pair(path.relative_to(folder), path.with_suffix(".lock").relative_to(folder))
        for path in found
        if path.with_suffix(".lock").is_file()
        and not is_lock(path.with_suffix(".lock").read_bytes())
    ]


def options_of(lock: Path, text: str) -> tuple[str, ...]:
    """Return the options with which a lock was made, as far as they choose versions.

    Raises :class:`ProjectError` for one that is not known here: it might be what matters.
    """
    for number, line in enumerate(_header(text), 1):
        command = next((line.partition(maker)[2] for maker in _MAKERS if maker in line), None)
        if command is not None:
            return tuple(_chosen(lock, number, shlex.split(command)))
    return ()


def _header(text: str) -> Iterator[str]:
    """Yield the comment lines before the first requirement."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            return
        yield line


def _chosen(lock: Path, line: int, words: Sequence[str]) -> Iterator[str]:
    rest = [part for word in words for part in _split(word)]
    while rest:
        word = rest.pop(0)
        if word in _FLAGS:
            yield from () if word in _DROPPED else (word,)
        elif word in _VALUED | _DROPPED_VALUED and rest:
            value = rest.pop(0)
            yield from () if word in _DROPPED_VALUED else (word, value)
        elif word.startswith("-"):
            hint = f"known are {', '.join(sorted((_FLAGS | _VALUED) - _DROPPED))}"
            raise ProjectError([Problem(lock, f"{word} is no option that is known here",
                                        line=line, hint=hint)])  # fmt: skip


def _split(word: str) -> list[str]:
    """Return ``--option=value`` as two words."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and name.startswith("--") else [word]


def resolve(
    folder: Path,
    pair: Pair,
    *,
    environment: Mapping[str, str],
    cache: Path,
    program: Path | None = None,
) -> str:
    """Return what the lock of a pair would be if it were made now, with its own first lines.

    ``environment`` says where the packages are; ``cache`` is where the resolver keeps what it read.
    ``program`` is the resolver, if not the uv that is found.
    Raises :class:`CommandError` with what the resolver said.
    """
    old = (folder / pair.lock).read_text(encoding="utf-8")
    options = options_of(pair.lock, old)
    if "--generate-hashes" not in options:
        options = ("--generate-hashes", *options)
    annotate = () if "# via" in old else ("--no-annotate",)
    argv: list[str | Path] = [
        program or _resolver(), "pip", "compile", "--quiet", "--no-header", "--no-progress",
        *annotate, "--python", sys.executable, *options, pair.wishes.name,
    ]  # fmt: skip
    env = {**environment, "UV_CACHE_DIR": str(cache), "UV_NO_CONFIG": "1", "NO_COLOR": "1"}
    try:
        done = process.run(argv, cwd=(folder / pair.wishes).parent, env=env, timeout=_PATIENCE)
    except CommandError as error:
        error.hint = f"{pair.wishes} cannot be resolved: is every name and version right?"
        raise
    return first_lines(old) + done.stdout


def first_lines(text: str) -> str:
    """Return the comment at the head of a lock."""
    return "".join(f"{line}\n" for line in _header(text))


def _resolver() -> str:
    """Return uv: of the environment that this program runs in, else of the host."""
    beside = Path(sys.executable).parent / "uv"
    if beside.exists():
        return str(beside)
    if found := shutil.which("uv"):
        return found
    raise HostError(
        "this host has no uv, which resolves requirements",
        hint=f"{sys.executable} -m pip install uv",
    )


def resolver_environment(pip: Mapping[str, str]) -> dict[str, str]:
    """Return where uv finds packages: where the host's pip does (its settings, ``pip config``).

    In its environment, not on its command line: an index may have a password.
    """
    names = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}
    return {names[name]: pip[name] for name in names if name in pip}


def pins_of(text: str) -> dict[str, str]:
    """Return name and version of each requirement of a lock; with its marker, where it has one."""
    pattern = re.compile(r"^([A-Za-z0-9][\w.-]*(?:\[[^\]]*\])?)==([^\s;\\]+)([^\\]*)", re.MULTILINE)
    return {
        f"{name}{marker.strip() and f' ({marker.strip(chr(59) + chr(32))})'}": version
        for name, version, marker in pattern.findall(text)
    }
