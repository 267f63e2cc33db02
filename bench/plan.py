"""How long it takes to learn that nothing changed.

::

    python -m bench.plan

Three questions, each beside a yardstick that runs alternately with it: ``vaultbuild plan`` of a
small project against the start of Python with click and yaml; the same with 20,000 input files
against ``git status`` of the same tree and that start; and a second ``vaultbuild build``, in which
a hook of the interpreter notes every program that the driver would start.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import partial
from typing import TYPE_CHECKING

from bench import measure
from bench.measure import PYTHON, ROOT, VAULTBUILD, Figure, median, ratio, say, seconds

if TYPE_CHECKING:
    from pathlib import Path

_START = [PYTHON, "-c", "import click, yaml"]
_FILES = 20_000
_PER_FOLDER = 100
_STAGE = "---\nparent: final\nroles: [{roles}]\n"
_ROLE = {
    "tasks/main.yml": "---\n- name: Look at the many files\n  ansible.builtin.meta: noop\n",
    "meta/argument_specs.yml": "---\nargument_specs:\n  main:\n    short_description: many files\n",
}
# Written to sitecustomize.py of the driver's interpreter: what it starts is noted in a file.
_RECORDER = """\
import os, sys
def _note(event, arguments):
    if event in {"subprocess.Popen", "os.posix_spawn", "os.exec", "os.fork", "os.system"}:
        with open(os.environ["BENCH_STARTED"], "a") as file:
            file.write(f"{event} {arguments[:2]}\\n")
sys.addaudithook(_note)
"""


def main() -> None:
    """Measure and print."""
    options = measure.parser(__doc__ or "").parse_args()
    rounds = options.rounds or 21
    with measure.folder(options.scratch) as scratch:
        project = _built(scratch)
        measure.wait_until_calm(options.calm)
        before = measure.load()
        figures = [*_small(project, rounds), *_second_build(project, rounds)]
        many = _built_with_many_files(project)
        figures += _many(many, rounds)
    measure.show(figures, as_json=options.json, load_before=before)


def _small(project: Path, rounds: int) -> list[Figure]:
    found = measure.alternate(
        rounds, {"start": partial(seconds, _START), "plan": partial(seconds, _plan(project))}
    )
    return [
        Figure("start of Python with click, yaml", median(found["start"]), "s"),
        Figure("plan, nothing changed", median(found["plan"]), "s"),
        Figure("plan / start", ratio(found["plan"], found["start"]), "x", 3),
    ]


def _many(project: Path, rounds: int) -> list[Figure]:
    found = measure.alternate(
        rounds,
        {
            "start": partial(seconds, _START),
            "git": partial(seconds, ["git", "status", "--porcelain"], cwd=project),
            "plan": partial(seconds, _plan(project)),
        },
    )
    yardstick = [4 * git + start for git, start in zip(found["git"], found["start"], strict=True)]
    name = f"plan, {_FILES} files"
    return [
        Figure("git status of the same tree", median(found["git"]), "s"),
        Figure(name, median(found["plan"]), "s"),
        Figure(f"{name} / (4 git status + start)", ratio(found["plan"], yardstick), "x", 1),
    ]


def _second_build(project: Path, rounds: int) -> list[Figure]:
    build = [*VAULTBUILD, "--project", str(project), "--quiet", "build"]
    times = measure.alternate(rounds, {"build": partial(seconds, build)})["build"]
    started = _started(project, build)
    control = _started(_forgetful(project), _plan(project))
    return [
        Figure("second build, nothing changed", median(times), "s", 1),
        Figure("  programs that it started", len(started), "", 0, "; ".join(started)[:120]),
        Figure("  (that the hook notes: plan without its index)", len(control), ""),
    ]


def _started(project: Path, argv: list[str]) -> list[str]:
    """Return the programs that the interpreter of ``argv`` starts, as its audit hook sees them."""
    folder = project.with_name("recorder")
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_RECORDER)
    notes = folder / "started"
    notes.write_text("")
    env = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "BENCH_STARTED": str(notes)}
    seconds(argv, env=env)
    return notes.read_text().splitlines()


def _forgetful(project: Path) -> Path:
    shutil.rmtree(project / "cache/var/index")
    return project


def _plan(project: Path) -> list[str]:
    return [*VAULTBUILD, "--project", str(project), "plan", "--detailed-exitcode"]


def _built(scratch: Path) -> Path:
    """Make the plain project of bench/peers, sealed so that it can be released, and build it."""
    project = measure.copy_project(ROOT / "bench/peers/project", scratch / "plan")
    for role in ("ssh_baseline", "seal"):
        place = project / "ansible/roles" / role
        shutil.copytree(ROOT / "ansible/roles" / role, place, dirs_exist_ok=True)
    _with_stage(project, "sealed", "ssh_baseline, seal")
    say("building the small project")
    _build(project)
    return project


def _built_with_many_files(project: Path) -> Path:
    """Give the last stage a role of many files, build that, and put the tree under git."""
    role = project / "ansible/roles/many_files"
    for name, text in _ROLE.items():
        (role / name).parent.mkdir(parents=True, exist_ok=True)
        (role / name).write_text(text)
    for number in range(_FILES):
        file = role / f"files/{number // _PER_FOLDER:03}/{number:05}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"file number {number}\n")
    _with_stage(project, "sealed", "ssh_baseline, many_files, seal")
    say(f"building it with {_FILES} files in one role")
    seconds([*VAULTBUILD, "--project", str(project), "--quiet", "stage", "sealed"])
    _put_under_git(project)
    return project


def _with_stage(project: Path, name: str, roles: str) -> None:
    pipeline = project / "stages/pipeline.yml"
    pipeline.write_text(
        pipeline.read_text().replace("[base, final]", f"[base, final, {name}]"), encoding="utf-8"
    )
    folder = project / "stages" / name
    folder.mkdir(exist_ok=True)
    (folder / "stage.yml").write_text(_STAGE.format(roles=roles))


def _build(project: Path) -> None:
    seconds([*VAULTBUILD, "--project", str(project), "--quiet", "build"])


def _put_under_git(project: Path) -> None:
    (project / ".gitignore").write_text("/cache/var/\n/dist/\n")
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for words in (
        ["init", "--quiet"],
        ["add", "--all"],
        [*identity, "commit", "--allow-empty", "-qm", "all"],
    ):
        subprocess.run(["git", *words], cwd=project, check=True)


if __name__ == "__main__":
    main()
