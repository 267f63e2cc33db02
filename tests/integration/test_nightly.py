"""What docs/nightly/ has: the script of a night with a vaultbuild that only notes how it is called,
the systemd units as systemd reads them, and the workflows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NIGHTLY = ROOT / "docs/nightly"
WORKFLOWS = ("github-actions.yml", "github-actions-pins.yml")
pytestmark = pytest.mark.integration

# Notes its words; ends as `<word>.status` says; `<word>.text` is its stdout, `<word>.events` what
# it writes to --events. With `<word>.hangs` it waits for the signal to stop.
_VAULTBUILD = """\
#!/bin/sh
printf '%s\\n' "$*" >>"$FAKE/words"
what=$1
asked=$*
while [ $# -gt 0 ]; do
    case $1 in
        --events) cat "$FAKE/$what.events" >"$2" 2>/dev/null ;;
        --junit) echo "<testsuites/>" >"$2" ;;
    esac
    shift
done
echo "story of $what" >&2
if [ -e "$FAKE/$what.hangs" ]; then
    trap 'echo "signal" >>"$FAKE/words"; sleep 0.5; exit 130' TERM
    echo "leader $(($$ == $(cut -d ' ' -f 6 /proc/$$/stat)))" >>"$FAKE/words"
    while :; do sleep 0.1; done
fi
case $asked in
    plan*--json*) echo '{"schema": 1}' ;;
    *) cat "$FAKE/$what.text" 2>/dev/null ;;
esac
case $asked in plan*--max-age*) exit 0 ;; esac
exit "$(cat "$FAKE/$what.status" 2>/dev/null || echo 0)"
"""
_ASKED = "upstream    asked 2026-11-25T02:00:00Z: nothing moved, 2 unknown\n"


@dataclass
class Night:
    """A project with a vaultbuild of its own, and the results of its nights."""

    project: Path
    fake: Path
    results: Path

    def says(self, **answers: int | str) -> None:
        """Let ``plan`` end with a status, ``build_events`` be the content of that file."""
        for name, answer in answers.items():
            suffix = ".status" if isinstance(answer, int) else ""
            (self.fake / (name.replace("_", ".") + suffix)).write_text(str(answer))

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "FAKE": str(self.fake),
            "VAULTBUILD_PROJECT": str(self.project),
            "NIGHTLY_RESULTS": str(self.results),
        }

    def run(self, *variants: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [NIGHTLY / "nightly.sh", *variants],
            env=self.environment | settings,
            cwd=self.project,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def words(self) -> list[str]:
        """What vaultbuild was called with, without options."""
        file = self.fake / "words"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.partition(" --")[0] for line in lines]

    @property
    def calls(self) -> str:
        return (self.fake / "words").read_text()

    def last(self, variant: str = "default") -> Path:
        return (self.results / variant / "latest").resolve()

    def result(self, variant: str = "default") -> tuple[str, str, int]:
        found = json.loads((self.last(variant) / "result.json").read_text())
        return found["outcome"], found["step"], found["exit_status"]


@pytest.fixture
def night(tmp_path) -> Night:
    found = Night(tmp_path / "project", tmp_path / "fake", tmp_path / "results")
    program = found.project / ".venv/bin/vaultbuild"
    program.parent.mkdir(parents=True)
    program.write_text(_VAULTBUILD)
    program.chmod(0o755)
    found.fake.mkdir()
    return found


# --- the script -----------------------------------------------------------------------------------


def test_nothing_moved_ends_well_and_builds_nothing(night):
    night.says(plan_text=_ASKED)
    done = night.run()
    assert done.returncode == 0
    assert night.words == ["plan", "plan"]
    assert night.result() == ("nothing", "plan", 0)
    # What could not be asked is no failure, and is said.
    assert "nothing to build (asked 2026-11-25T02:00:00Z: nothing moved, 2 unknown)" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert "nothing moved" in (night.last() / "summary.md").read_text()


def test_work_is_built_verified_and_pruned(night):
    night.says(plan=4, build_text='{"releases": []}', build_events='{"event": "run_finished"}\n')
    done = night.run()
    assert done.returncode == 0
    assert "default variant: built and verified" in done.stdout
    assert night.words == [
        "plan", "plan", "build", "verify",
        "cache prune", "cache prune apt pypi wheels isos models",
    ]  # fmt: skip
    kept = {path.name for path in night.last().iterdir()}
    assert kept == {
        "plan.json", "plan.log", "plan.txt", "build.json", "build.log", "events.jsonl",
        "verify.json", "verify.log", "verify.xml", "summary.md", "result.json",
    }  # fmt: skip
    assert json.loads((night.last() / "build.json").read_text()) == {"releases": []}
    assert "story of build" in done.stderr


def test_the_build_goes_by_what_the_plan_was_told(night):
    night.says(plan=4)
    night.run()
    plan, told, build = night.calls.splitlines()[:3]
    assert "--max-age" not in plan
    assert "--refresh --max-age" in told
    assert "--refresh --max-age" in build


@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_plan_that_fails_is_a_night_that_fails(night, status):
    night.says(plan=status)
    done = night.run()
    assert done.returncode == status
    assert night.words == ["plan"]
    assert night.result() == ("failed", "plan", status)
    assert f"plan failed with status {status}" in done.stdout
    assert "story of plan" in (night.last() / "summary.md").read_text()


@pytest.mark.parametrize("status", [1, 2, 3])
def test_a_build_that_fails_keeps_its_results(night, status):
    night.says(plan=4, build=status, build_events='{"event": "run_finished"}\n')
    done = night.run()
    assert done.returncode == status
    # The disk may be why.
    assert night.words[2:] == ["build", "cache prune", "cache prune apt pypi wheels isos models"]
    assert night.result() == ("failed", "build", status)
    assert "run_finished" in (night.last() / "events.jsonl").read_text()
    assert "story of build" in (night.last() / "summary.md").read_text()


def test_checks_that_fail_are_told_as_junit(night):
    events = [
        {"event": "verdict", "time": 1, "stage": "base", "status": "passed"},
        {"event": "verdict", "time": 2, "stage": "drivers", "status": "failed"},
    ]
    night.says(plan=4, build=1, build_events="\n".join(map(json.dumps, events)) + "\n")
    assert night.run("debian-13").returncode == 1
    assert night.words[3] == "verify"
    assert "drivers --variant debian-13" in night.calls.splitlines()[3]
    assert (night.last("debian-13") / "verify.xml").is_file()
    assert night.result("debian-13") == ("failed", "build", 1)


def test_checks_that_fail_when_they_are_asked_again_fail_the_night(night):
    night.says(plan=4, verify=1)
    assert night.run().returncode == 1
    assert night.result() == ("failed", "verify", 1)


def test_what_a_night_could_not_end_the_next_one_tries_again(night):
    """A failed check or release leaves nothing for a plan to do; the night must not turn green."""
    night.says(plan=4, build=1)
    night.run()
    night.says(plan=0)
    assert night.run().returncode == 1
    night.says(build=0)
    assert night.run().returncode == 0
    assert night.result()[0] == "built"
    assert night.run().returncode == 0
    assert night.result()[0] == "nothing"


def test_of_several_variants_each_has_its_turn_and_the_worst_counts(night):
    night.says(plan=4, build=1)
    done = night.run("debian-12", "debian-13")
    assert done.returncode == 1
    assert night.result("debian-12") == night.result("debian-13") == ("failed", "build", 1)
    assert "debian-12: build failed" in done.stdout.splitlines()[0]
    assert "debian-13: build failed" in done.stdout.splitlines()[1]


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_night_lets_vaultbuild_stop_in_good_order(night, name):
    night.says(plan=4, build_hangs="yes")
    running = subprocess.Popen(
        [NIGHTLY / "nightly.sh", "debian-13", "debian-14"],
        env=night.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not night.words or "leader" not in night.words[-1]:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(name)
    told, story = running.communicate()
    assert running.returncode == 130
    # One signal (a terminal's goes to a whole session), the end waited for, and nothing more: no
    # verify, no prune, no other variant.
    assert night.words[2:] == ["build", "leader 1", "signal"]
    assert "debian-13: interrupted during build" in told
    assert len(told.splitlines()) == 1
    assert "prune" not in story
    assert night.result("debian-13") == ("interrupted", "build", 130)


def test_a_killed_vaultbuild_is_a_failure_and_no_interruption(night):
    night.says(plan=4)
    program = night.project / ".venv/bin/vaultbuild"
    program.write_text(_VAULTBUILD.replace("what=$1\n", "what=$1\n[ $1 != build ] || kill -9 $$\n"))
    done = night.run()
    assert done.returncode == 1
    assert "killed by signal 9" in done.stderr
    assert night.result() == ("failed", "build", 1)


def test_old_results_go(night):
    old = [night.results / f"default/202611{day:02}T020000Z-7" for day in range(1, 6)]
    for folder in old:
        folder.mkdir(parents=True)
        (folder / "result.json").write_text("{}")
    (night.results / "default/mine").mkdir()
    night.run(NIGHTLY_NIGHTS="3")
    left = sorted(path.name for path in (night.results / "default").iterdir())
    assert left[:2] == [old[3].name, old[4].name]
    assert left[2:] == [night.last().name, "latest", "mine"]


@pytest.mark.parametrize(
    ("variants", "settings"), [(["../x"], {}), ([""], {}), ([], {"NIGHTLY_NIGHTS": "0"})]
)
def test_wrong_words_are_refused_before_anything_runs(night, variants, settings):
    done = night.run(*variants, **settings)
    assert done.returncode == 2
    assert night.words == []


def test_without_vaultbuild_the_host_lacks_something(night):
    (night.project / ".venv/bin/vaultbuild").unlink()
    done = night.run(PATH="/usr/bin:/bin")
    assert done.returncode == 3
    assert "there is no vaultbuild" in done.stderr


def test_vaultbuild_is_found_on_path_too(night, program):
    (night.project / ".venv/bin/vaultbuild").unlink()
    program("vaultbuild", _VAULTBUILD)
    assert night.run(PATH=os.environ["PATH"]).returncode == 0
    assert night.words == ["plan", "plan"]


# --- the units ------------------------------------------------------------------------------------

_UNITS = sorted(path.name for path in NIGHTLY.glob("vaultbuild-*"))


@pytest.mark.parametrize("unit", _UNITS)
def test_systemd_has_nothing_to_say_about_a_unit(unit, tmp_path, require_program):
    analyze = require_program("systemd-analyze")
    # A dash in the path is what escaping is about.
    project, units = tmp_path / "gpu-images", tmp_path / "units"
    shutil.copytree(NIGHTLY, project / "docs/nightly")
    shutil.copytree(NIGHTLY, units)
    escape = [str(require_program("systemd-escape")), "--path", str(project)]
    instance = subprocess.check_output(escape, text=True).strip()
    done = subprocess.run(
        [analyze, "verify", "--man=no", units / unit.replace("@", f"@{instance}")],
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in done.stderr.splitlines() if "vaultbuild" in line]
    assert (done.returncode, said) == (0, [])


def test_each_service_has_its_timer():
    assert {unit.partition("@")[0] for unit in _UNITS} == {"vaultbuild-nightly", "vaultbuild-warm"}
    assert [unit for unit in _UNITS if unit.endswith("service")] == [
        unit.replace("timer", "service") for unit in _UNITS if unit.endswith("timer")
    ]


# --- the workflows --------------------------------------------------------------------------------


def _workflow(name: str) -> dict:
    return yaml.safe_load((NIGHTLY / name).read_text())


def _steps(name: str) -> list[dict]:
    return [step for job in _workflow(name)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_is_bounded(name):
    workflow = _workflow(name)
    assert "workflow_dispatch" in workflow["on"]
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert all(job["timeout-minutes"] < 360 for job in workflow["jobs"].values())


def test_the_nightly_may_only_read_and_the_pins_may_propose():
    assert _workflow(WORKFLOWS[0])["permissions"] == {"contents": "read"}
    assert _workflow(WORKFLOWS[1])["permissions"] == {
        "contents": "write",
        "pull-requests": "write",
    }


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_pinned_to_commits(name):
    used = [step["uses"] for step in _steps(name) if "uses" in step]
    assert used
    assert [use for use in used if not re.fullmatch(r"actions/[\w/-]+@[0-9a-f]{40}", use)] == []


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_checkout_leaves_the_store_where_it_is(name):
    checkout = next(step for step in _steps(name) if "checkout" in step.get("uses", ""))
    assert checkout["with"]["clean"] is False


def test_results_are_kept_also_of_a_failed_night():
    steps = _steps(WORKFLOWS[0])
    after = steps[[step.get("id") for step in steps].index("night") + 1 :]
    assert any("upload-artifact" in step.get("uses", "") for step in after)
    assert all("always()" in step["if"] for step in after)


def test_the_matrix_names_variants_that_there_are():
    job = _workflow(WORKFLOWS[0])["jobs"]["build"]
    listed = re.search(r"\[.*\]", job["strategy"]["matrix"]["variant"])
    pipeline = yaml.safe_load((ROOT / "stages/pipeline.yml").read_text())
    assert listed
    assert set(json.loads(listed[0])) <= set(pipeline["variants"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_a_workflow_runs_is_good_shell(name, require_program, tmp_path):
    shellcheck = require_program("shellcheck")
    for number, step in enumerate(step for step in _steps(name) if "run" in step):
        # An expression would be pasted into the script, whatever it is: values come by environment.
        assert "${{" not in step["run"], step["name"]
        script = tmp_path / f"{number}.sh"
        script.write_text(f"#!/bin/bash\nset -eo pipefail\n{step['run']}\n")
        done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
