"""Locks of requirements: their options, and a program that stands in for uv."""

import os
from pathlib import Path

import pytest

from builder.errors import CommandError, ProjectError
from builder.upstream import requirements_in
from builder.upstream.requirements_in import Pair

LOCK = Path("stages/final/requirements.lock")
HEADER = "# Wheels for the guest.\n# Made by: uv pip compile --python-version 3.13 --quiet\n"
OLD = HEADER + "numpy==2.5.5 \\\n    --hash=sha256:aa\n"
PAIR = Pair(LOCK.with_suffix(".in"), LOCK)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        ("# Made by: uv pip compile --generate-hashes --python-version 3.13 --only-binary :all:",
         ("--generate-hashes", "--python-version", "3.13", "--only-binary", ":all:")),
        ("#    uv pip compile --python-version=3.13 requirements.in -o requirements.lock -q",
         ("--python-version", "3.13")),
        ("#    pip-compile --allow-unsafe --generate-hashes --output-file=r.lock r.in",
         ("--generate-hashes",)),
        ("# by hand", ()),
    ],
)  # fmt: skip
def test_options_are_taken_from_the_head(line, options):
    assert requirements_in.options_of(LOCK, f"# words\n{line}\nnumpy==1\n") == options


@pytest.mark.parametrize("option", ["--index-url http://x.example", "--config-file=x", "--tool"])
def test_an_option_that_may_do_anything_else_is_refused(option):
    with pytest.raises(ProjectError, match=r"requirements.lock:2: --[\w-]+ is no option"):
        requirements_in.options_of(LOCK, f"# words\n# uv pip compile {option}\n")


def test_a_comment_further_down_is_no_head():
    text = "numpy==1\n# uv pip compile --tool\n"
    assert requirements_in.options_of(LOCK, text) == ()


def test_pins_of_a_lock():
    text = OLD + "extra[a,b]==1.0 ; python_version < '3.12' \\\n    --hash=sha256:cc\n# x==1\n"
    assert requirements_in.pins_of(text) == {
        "numpy": "2.5.5",
        "extra[a,b] (python_version < '3.12')": "1.0",
    }


def test_pairs_are_wishes_with_a_lock_beside_them(tmp_path):
    folder = tmp_path / "stages/final"
    folder.mkdir(parents=True)
    for name in ("requirements.in", "requirements.lock", "alone.in", "sysctl.conf.in"):
        (folder / name).write_text("numpy\n")
    (folder / "models.in").write_text("models: []\n")
    (folder / "models.lock").write_text("schema: 1\nmodels: []\n")
    assert requirements_in.pairs_in(tmp_path) == [PAIR]


@pytest.fixture
def resolver(tmp_path, monkeypatch):
    """A project with a pair, and a program that is found as uv and does what a script says."""
    folder = tmp_path / "stages/final"
    folder.mkdir(parents=True)
    (folder / "requirements.in").write_text("numpy\n")
    (folder / "requirements.lock").write_text(OLD)
    program = tmp_path / "bin/uv"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def resolve(script, environment=None):
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return requirements_in.resolve(
            tmp_path, PAIR, environment=environment or {}, cache=tmp_path / "uv", program=program
        )

    return resolve


def test_a_lock_keeps_its_head(resolver):
    assert resolver("echo numpy==2.5.6") == HEADER + "numpy==2.5.6\n"


def test_the_resolver_is_told_the_guest_and_the_hosts_index_but_not_on_its_command_line(resolver):
    pip = {"index-url": "http://me:secret@index.example/simple", "cert": "/ca.pem"}
    found = requirements_in.resolver_environment(pip)
    said = resolver('echo "# $*"; echo "# $UV_DEFAULT_INDEX $SSL_CERT_FILE"; pwd', found)
    command, index, where = said.removeprefix(HEADER).splitlines()
    assert command.endswith("--generate-hashes --python-version 3.13 requirements.in")
    assert "secret" not in command
    assert index == "# http://me:secret@index.example/simple /ca.pem"
    assert where.endswith("stages/final")


def test_what_cannot_be_resolved_is_told(resolver):
    with pytest.raises(CommandError, match="no version of numpy") as caught:
        resolver("echo 'no version of numpy' >&2; exit 1")
    assert "requirements.in cannot be resolved" in caught.value.hint
