"""What exists is documented, and what the documents point to exists."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from builder import failures

_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]\[]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|!\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+?)\s*#*$", re.MULTILINE)


@pytest.fixture(scope="module")
def manual(files, root) -> str:
    """What a user reads: the README and everything below docs/."""
    pages = [path for path in files if path == Path("README.md") or path.parts[0] == "docs"]
    return "\n".join((root / path).read_text() for path in pages if path.suffix == ".md")


# --- the command line -----------------------------------------------------------------------------


def test_commands_have_help_with_an_example():
    wrong = [name for name, command in _commands() if "Example" not in (command.help or "")]
    assert not wrong, f'the help of these shows no "Example:": {wrong}'


def test_options_have_help():
    wrong = [
        f"{name} {parameter.opts[0]}"
        for name, command in _commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert not wrong, f"these options have no help: {wrong}"


def test_commands_are_documented(manual):
    wrong = [name for name, _ in _commands() if not re.search(rf"{name}(?![\w-])", manual)]
    assert not wrong, f"neither README.md nor docs/ shows these: {wrong}"


# --- files of a project ---------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["PipelineFile", "StageFile"])
def test_keys_are_documented(file, manual):
    schema = pytest.importorskip("builder.schema", reason="the models of the files")
    wrong = [key for key in sorted(set(_keys(getattr(schema, file)))) if not _names(manual, key)]
    assert not wrong, f"neither README.md nor docs/ names these keys: {wrong}"


def test_roles_have_a_readme_that_names_their_variables(files, root):
    wrong = []
    for specs in (path for path in files if path.match("ansible/roles/*/meta/argument_specs.yml")):
        readme = root / specs.parents[1] / "README.md"
        text = readme.read_text() if readme.is_file() else ""
        main = yaml.safe_load((root / specs).read_text())["argument_specs"]["main"]
        wrong += [] if text else [f"{specs.parts[2]} has no README.md"]
        wrong += [
            f"{specs.parts[2]}/README.md does not name {option}"
            for option in main.get("options") or ()
            if text and not _names(text, option)
        ]
    assert not wrong, "\n  " + "\n  ".join(wrong)


def test_roles_declare_their_variables(files):
    roles = {path.parts[2] for path in files if path.match("ansible/roles/*/tasks/main.yml")}
    declared = {
        path.parts[2] for path in files if path.match("ansible/roles/*/meta/argument_specs.yml")
    }
    assert not (roles - declared), "these have no meta/argument_specs.yml"


def test_causes_are_documented(root):
    rows = [
        f"| `{rule.id}` | {rule.cause} |{' yes' if rule.passes else ''} |"
        for rule in failures.load()
    ]
    page = (root / "docs/troubleshooting.md").read_text().partition("\n## Causes\n")[2]
    told = [line for line in page.splitlines() if line.startswith("| `")]
    assert told == rows, "docs/troubleshooting.md must list the rules of builder/failures.yml"


def test_fields_of_a_manifest_are_documented(root, builder_modules):
    """Those that the table does not tell, and those that it tells and nobody writes."""
    publish = next(module for module in builder_modules if module.name == "release.publish")
    written = _manifest_fields(publish.tree)
    table = (root / "docs/publishing.md").read_text().partition("## manifest.json")[2]
    rows = [line for line in table.partition("\n\nReleases")[0].splitlines() if "`" in line]
    told = {name: row for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert set(told) == set(written), "docs/publishing.md must list the fields of a manifest"
    wrong = [
        f"{field}: {key}" for field, keys in written.items() for key in keys
        if not _names(told[field], key)
    ]  # fmt: skip
    assert not wrong, f"docs/publishing.md names the field, and not what is in it: {wrong}"


# --- links ----------------------------------------------------------------------------------------


def test_links_lead_somewhere(files, root):
    wrong = [
        f"{page}: {target}"
        for page in files
        if page.suffix == ".md"
        for target in _links((root / page).read_text())
        if not _leads_somewhere(root / page, target)
    ]
    assert not wrong, "\n  " + "\n  ".join(wrong)


# --- how they look --------------------------------------------------------------------------------


# The functions of builder/release/publish.py that make a part of the manifest.
_PARTS = {"_lock": "network", "_link": "lineage", "_summary": "verdicts"}


def _manifest_fields(tree: ast.Module) -> dict[str, list[str]]:
    """Return the fields of a manifest, each with the keys of what it holds, as they are written."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    whole = next(node for node in ast.walk(functions["_manifest"]) if isinstance(node, ast.Dict))
    found = {
        key.value: [name for node in ast.walk(value) for name in _literal_keys(node)]
        for key, value in zip(whole.keys, whole.values, strict=True)
        if isinstance(key, ast.Constant)
    }
    for node in ast.walk(functions["_make"]):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "manifest":
            found.setdefault(ast.literal_eval(node.slice), [])
    for function, field in _PARTS.items():
        found[field] += [n for node in ast.walk(functions[function]) for n in _literal_keys(node)]
    return found


def _literal_keys(node: ast.AST) -> list[str]:
    keys = node.keys if isinstance(node, ast.Dict) else ()
    return [key.value for key in keys if isinstance(key, ast.Constant)]


def _commands() -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its full name, such as ``vaultbuild cache up``."""
    from builder.cli import main  # late: only these tests fail when it cannot be imported

    yield from _below("vaultbuild", main)


def _below(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, child in command.commands.items():
        if not child.hidden:
            yield from _below(f"{name} {word}", child)


def _keys(model: type) -> Iterator[str]:
    """Yield the keys of a file's model and of the models in it."""
    for name, field in getattr(model, "model_fields", {}).items():
        yield field.alias or name
        for part in _parts(field.annotation):
            yield from _keys(part)


def _parts(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    for argument in get_args(annotation):
        yield from _parts(argument)


def _names(text: str, word: str) -> bool:
    """Whether a text shows a word as code: in backquotes, or in a block of YAML."""
    return bool(re.search(rf"`[^`\n]*\b{word}\b[^`\n]*`|(^|[\s{{,]){word}:", text, re.MULTILINE))


def _links(text: str) -> Iterator[str]:
    for match in _LINK.finditer(_CODE.sub("", text)):
        target = match[1] or match[2]
        if not re.match(r"[a-z]+:", target):
            yield target


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    if not file.exists():
        return False
    return not anchor or file.suffix != ".md" or anchor in _anchors(file.read_text())


def _anchors(text: str) -> set[str]:
    """Return the anchors of the headings, as forges make them."""
    headings = _HEADING.findall(_CODE.sub("", text))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
