"""HCL: saying a value in it, reading it back, and finding the files that it names.

python-hcl2 gives documents in which a quoted string keeps its quotes and an expression stands in
``${ }``, so the two can be told apart.
"""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from builder.errors import Problem, ProjectError
from builder.suggest import suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Document = dict[str, Any]

_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_FIRST_PRINTABLE: Final = 32
_DELETE: Final = 127

_BLOCKS: Final = frozenset(
    {"build", "data", "local", "locals", "packer", "source", "variable", "variables"}
)
# Attributes of Packer's own builders and provisioners, and of the ansible one, that name files.
_FILE_ATTRIBUTES: Final = frozenset(
    {
        "cd_files", "floppy_dirs", "floppy_files", "galaxy_file", "http_directory",
        "inventory_file", "playbook_file", "playbook_files", "script", "scripts", "user_data_file",
    }
)  # fmt: skip
# Firmware comes with the host's QEMU, unless a project brings its own.
_HOSTS: Final = frozenset({"efi_firmware_code", "efi_firmware_vars", "firmware"})
# In these blocks alone, `source` and `sources` are files.
_COPYING: Final = frozenset({"file"})
_FILE_FUNCTIONS: Final = re.compile(
    r"\b(?:file|filebase64|templatefile|fileexists|filesha\d+|filemd5)\(\s*(?P<argument>[^,)]*)"
)
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_BESIDE: Final = re.compile(r"^\$\{\s*path\.(?:root|cwd)\s*\}/?")
# Placeholders for what differs from run to run stand below this folder; see builder.template.
NOWHERE: Final = Path("/vaultbuild")


def quote(value: Any) -> str:
    """Return ``value`` as HCL: quoted, escaped, with nothing for HCL to interpolate.

    Packer's own ``{{ .Placeholders }}`` pass through.
    """
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value, allow_nan=False)
    if isinstance(value, str | Path):
        return f'"{escape(str(value))}"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(quote(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{quote(str(name))} = {quote(item)}" for name, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise TypeError(f"HCL has no {type(value).__name__}: {value!r}")


def escape(text: str) -> str:
    """Return what stands between the quotes of an HCL string."""
    escaped = "".join(_ESCAPES.get(letter) or _visible(letter) for letter in text)
    return escaped.replace("${", "$${").replace("%{", "%%{")


def _visible(letter: str) -> str:
    code = ord(letter)
    return f"\\u{code:04x}" if code < _FIRST_PRINTABLE or code == _DELETE else letter


def read_back(text: str, name: Path) -> Document:
    """Return the document that ``text`` says.

    Raises :class:`ProjectError` when it is no HCL, or no template that builds one disk and calls
    back; ``name`` is the file that is blamed.
    """
    import hcl2  # late: 66 ms, and a plan with nothing changed reads no template
    from lark.exceptions import LarkError, UnexpectedInput

    try:
        document: Document = hcl2.loads(text)
    except UnexpectedInput as error:
        raise ProjectError([_syntax_problem(text, name, error.line)], hint=_SHOW) from error
    except LarkError as error:
        first = str(error).splitlines()[0]
        raise ProjectError([Problem(name, f"is no HCL: {first}")], hint=_SHOW) from error
    if problems := [Problem(name, message, hint=hint) for message, hint in _mistakes(document)]:
        raise ProjectError(problems, hint=_SHOW)
    return document


_SHOW: Final = "vaultbuild render STAGE shows what the template renders to"


def _syntax_problem(text: str, name: Path, line: int) -> Problem:
    lines = text.splitlines() or [""]
    line = min(max(line, 1), len(lines))
    # The lines are those of the rendered text: Jinja2 keeps no map back to the template's.
    return Problem(
        name, f"is no HCL at line {line} of what it renders to: {lines[line - 1].strip()}"
    )


def _mistakes(document: Document) -> Iterator[tuple[str, str | None]]:
    for kind in document:
        if not kind.startswith("__") and kind not in _BLOCKS:
            yield f'unknown block "{kind}"', suggestion(kind, _BLOCKS)
    builds = document.get("build", [])
    if len(builds) != 1:
        yield f"has {len(builds)} build blocks", "a stage is exactly one build"
        return
    declared = {f"source.{kind}.{label}" for kind, label, _ in _sources(document)}
    used = [_text(source) for source in builds[0].get("sources", [])]
    if len(used) != 1:
        yield f"builds {len(used)} sources", "a stage is exactly one disk: sources = [ONE]"
    for source in used:
        if source not in declared and f"source.{source}" not in declared:
            yield f'builds "{source}", which it does not declare', suggestion(source, declared)
    if not any(kind == "shell-local" for kind, _ in _blocks(builds[0], "provisioner")):
        yield "never calls back, so no role would run", 'include "parts/build.pkr.hcl.j2"'


def _sources(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for block in document.get("source", []):
        for kind, labelled in _labels(block):
            for label, body in _labels(labelled):
                yield kind, label, body


def _blocks(body: Mapping[str, Any], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for block in body.get(name, []):
        yield from _labels(block)


def _labels(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((_text(key), body) for key, body in block.items() if not key.startswith("__"))


def named_files(document: Document, base: Path, name: Path) -> tuple[Path, ...]:
    """Return every file that a document names, relative to ``base``, folders by what they hold.

    Packer runs in ``base`` (or a copy of it), so names are relative to it and stay below it. What a
    shell command or QEMU's arguments name is not seen. Raises :class:`ProjectError`, blaming
    ``name``, for a file that does not exist and for one that the key could not know: outside of
    ``base``, or named by an expression that only Packer can work out.
    """
    files: set[Path] = set()
    problems: list[Problem] = []
    for attribute, value in _file_names(document, block=""):
        try:
            files.update(_files(attribute, value, base))
        except ValueError as error:
            problems.append(Problem(name, str(error), key=attribute))
    if problems:
        raise ProjectError(problems)
    return tuple(sorted(files))


def _file_names(node: Any, *, block: str) -> Iterator[tuple[str, str]]:
    """Yield (attribute, HCL of a file's name) for everything that names files in ``node``."""
    if isinstance(node, list):
        for item in node:
            yield from _file_names(item, block=block)
    elif isinstance(node, dict):
        for key, value in node.items():
            word = _text(key)
            if _names_files(word, block):
                yield from ((word, item) for item in _leaves(value))
            else:
                yield from _file_names(value, block=word if isinstance(value, dict) else block)
    elif isinstance(node, str):
        yield from _function_arguments(node)


def _names_files(attribute: str, block: str) -> bool:
    return attribute in _FILE_ATTRIBUTES | _HOSTS or (
        attribute in {"source", "sources"} and block in _COPYING
    )


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield value


def _function_arguments(expression: str) -> Iterator[tuple[str, str]]:
    for call in _FILE_FUNCTIONS.finditer(expression):
        yield call[0].partition("(")[0], call["argument"].strip()


def _files(attribute: str, value: str, base: Path) -> Iterator[Path]:
    relative = _BESIDE.sub("", _text(value))
    if not relative or relative == "null":
        return
    if not _STRING.fullmatch(value) or "${" in relative or "%{" in relative:
        raise ValueError(f"names a file by an expression, {value}: write the name itself")
    if Path(relative).is_absolute():
        if attribute in _HOSTS or Path(relative).is_relative_to(NOWHERE):
            return
        raise ValueError(f"{relative} is no file of this project: bring it in")
    if ".." in PurePosixPath(relative).parts:
        raise ValueError(f"{relative} may not go through ..")
    found = [base / relative] if (base / relative).exists() else sorted(base.glob(relative))
    if not found:
        raise ValueError(f"there is no file {relative}")
    for path in found:
        yield from (file.relative_to(base) for file in _content(path))


def _content(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (item for item in path.rglob("*") if not item.is_dir())
    else:
        yield path


def _text(value: str) -> str:
    """Return the string that an HCL string says; anything else as it stands."""
    if not _STRING.fullmatch(value):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value[1:-1]
