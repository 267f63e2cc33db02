"""What a new project holds: the reference project under another name, decided and not yet written.

Pure: files in, files out. The pipeline's file is edited at two places and keeps its comments; a
README's links that lead out of the project name the page instead.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from builder.errors import ChoiceError
from builder.pipeline import PIPELINE_FILE
from builder.reference import File
from builder.upstream.pins import places_in
from builder.values import WrongValueError, parse_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_LINK = re.compile(r"\[([^\]\[]+)\]\(((?:\.\./)+[^)\s#]+)(?:#[^)\s]*)?\)")
_IGNORED = "/cache/var/\n/dist/\n__pycache__/\n"
_README = """\
# {name}

Disk images for GPU hosts, built by vaultbuild. It began as vaultbuild's reference project:
everything here is yours to change. Pages named `docs/…` are those of vaultbuild.

```
vaultbuild doctor        # can this host build it?
vaultbuild plan          # what would run, and why
vaultbuild stage base    # make the first stage's image, check it, print its path
vaultbuild build         # all stages of the variant {variant}, checked and published to dist/
```

| folder | holds |
| --- | --- |
| `stages/` | the pipeline: stages, variants, checks, lock files ([README](stages/README.md)) |
| `ansible/` | the roles ([README](ansible/README.md)) |
| `packer/` | the templates ([README](packer/README.md)) |
| `cache/` | configuration of the caches; what they and the store keep ([README](cache/README.md)) |
"""


def chosen_name(name: str | None, folder: Path) -> str:
    """Return the pipeline's name: the one that is given, else the folder's."""
    try:
        return parse_name(folder.name if name is None else name)
    except WrongValueError as error:
        said = "--name" if name is not None else "the folder's name"
        another = "" if name is not None else ", and give it as --name NAME"
        raise ChoiceError(f"{said}: {error.message}", hint=f"{error.hint}{another}") from error


def require_variant(variant: str, known: Iterable[str]) -> None:
    """Raise :class:`ChoiceError` when the reference project has no such variant."""
    names = sorted(known)
    if variant not in names:
        raise ChoiceError(f'there is no variant "{variant}"', hint=f"known: {', '.join(names)}")


def decide(reference: Iterable[File], *, name: str, variant: str) -> list[File]:
    """Return the files of a new project that is called ``name`` and builds ``variant``."""
    found = [*reference, *_own(name, variant)]
    paths = {file.path for file in found}
    values = {"name": name, "variant": variant}
    return sorted((_adapted(file, paths, values) for file in found), key=lambda file: file.path)


def _own(name: str, variant: str) -> list[File]:
    """Return what the reference project has no need of, being part of a repository."""
    readme = _README.format(name=name, variant=variant)
    return [File(Path(".gitignore"), _IGNORED.encode()), File(Path("README.md"), readme.encode())]


def _adapted(file: File, paths: Collection[Path], values: Mapping[str, str]) -> File:
    if file.path == PIPELINE_FILE:
        return File(file.path, _with_values(file.content.decode(), values).encode())
    if file.path.suffix == ".md":
        return File(file.path, _without_loose_links(file, paths).encode())
    return file


def _with_values(text: str, values: Mapping[str, str]) -> str:
    """Return the pipeline's file with other values of keys that stand at its left margin."""
    places = [place for place in places_in(PIPELINE_FILE, text) if place.key in _keys(values)]
    for place in sorted(places, key=lambda place: place.start, reverse=True):
        value = _written(values[str(place.key[0])])
        text = text[: place.start] + value + text[place.end :]
    return text


def _keys(values: Mapping[str, str]) -> set[tuple[str | int, ...]]:
    return {(key,) for key in values}


def _written(value: str) -> str:
    """Return a name as YAML: in quotes where it would be a number, a date or a truth."""
    return value if yaml.safe_load(value) == value else f'"{value}"'


def _without_loose_links(page: File, paths: Collection[Path]) -> str:
    def named(link: re.Match[str]) -> str:
        text, target = link.groups()
        within = os.path.normpath(page.path.parent / target)
        if Path(within) in paths or any(Path(within) in path.parents for path in paths):
            return link[0]
        return text if text == within else f"{text} ({within})"

    return _LINK.sub(named, page.content.decode())
