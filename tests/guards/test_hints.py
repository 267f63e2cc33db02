"""What somebody is told to type means the variant and the engine that it is about."""

import ast
import re
from collections.abc import Iterator

import click

# A new project has one choice only, and the caches of a project are those of all its variants.
_OF_ALL = {"cli_init", "new_project", "caches.service"}
# With one of these it is said what is meant.
_MEANT = ("--variant", "--lock")


def test_what_to_type_is_worded_for_the_project(builder_modules):
    """By ``Project.command`` or ``Pipeline.command``: a command that is spelled out forgets."""
    wrong = [
        f"{module.place(node)}: {text}"
        for module in builder_modules
        if module.name not in _OF_ALL
        for node, said in _texts(module.tree)
        for text in _forgetful(said)
    ]
    assert not wrong, "\n  " + "\n  ".join(wrong)


def test_a_command_that_is_spelled_out_is_found():
    assert _found('hint = f"look inside: vaultbuild shell {stage}"') == ["vaultbuild shell"]
    assert _found('hint = "vaultbuild -v plan"') == ["vaultbuild -v plan"]
    assert _found('"""Docs: vaultbuild plan."""\nx = f"vaultbuild {words}"') == []
    assert _found('cure = "vaultbuild cache prune"\ncure = "vaultbuild shell NAME --failed"') == []


def _found(code: str) -> list[str]:
    return [text for _, said in _texts(ast.parse(code)) for text in _forgetful(said)]


def _forgetful(text: str) -> list[str]:
    """Return the commands in a text that take a variant and are told none.

    One whose stage the reader has to put in (``shell NAME``) is no line to be typed as it stands.
    """
    if any(word in text for word in _MEANT):
        return []
    names = "|".join(_with_variants())
    return re.findall(rf"vaultbuild (?:-\w+ )?(?:{names})\b(?!(?: --?[\w-]+)* [A-Z])", text)


def _with_variants() -> list[str]:
    from builder.cli import main  # late: only these tests fail when it cannot be imported

    return [re.escape(name) for name, command in _commands(main) if _takes_a_variant(command)]


def _commands(group: click.Group, above: str = "") -> Iterator[tuple[str, click.Command]]:
    for word, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, f"{above}{word} ")
        else:
            yield f"{above}{word}", command


def _takes_a_variant(command: click.Command) -> bool:
    return any("--variant" in parameter.opts for parameter in command.params)


def _texts(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield the texts of a module but for its docstrings; ``{}`` for what is put into one."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    known = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            known |= {id(part) for part in node.values}
            yield node, "".join(_parts(node))
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in known
        ):
            yield node, node.value


def _parts(text: ast.JoinedStr) -> Iterator[str]:
    for part in text.values:
        yield str(part.value) if isinstance(part, ast.Constant) else "{}"
