"""GPUs are split as a layout says, by a program that knows nvidia-smi alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "ansible/roles/mig/files/gpu-mig"
LAYOUTS = {
    "halves": [{"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 2}}],
    "whole": [{"devices": "all", "mig-enabled": False}],
    "mixed": [
        {"devices": "all", "mig-enabled": False},
        {"devices": [1], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "2g.20gb": 1}},
    ],
    "third": [{"devices": [2], "mig-enabled": False}],
}
# Stands for nvidia-smi and two GPUs, whose state is a file: a mode waits for a reset, instances are
# made in MIG mode alone, and a reset removes them.
SMI = """#!{python}
import json, sys
from pathlib import Path

state = Path({state!r})
gpus = json.loads(state.read_text())
words = sys.argv[1:]
with Path({journal!r}).open("a") as file:
    file.write(" ".join(words) + "\\n")
if words[0].startswith("--query-gpu="):
    for index, gpu in enumerate(gpus):
        print(f"{{index}}, {{gpu['mode']}}")
elif words == ["-L"]:
    for index, gpu in enumerate(gpus):
        print(f"GPU {{index}}: NVIDIA H100 80GB HBM3 (UUID: GPU-{{index}})")
        for at, profile in enumerate(gpu["parts"]):
            print(f"  MIG {{profile}}     Device  {{at}}: (UUID: MIG-{{index}}-{{at}})")
else:
    gpu = gpus[int(words[words.index("-i") + 1])]
    if "-mig" in words:
        gpu["pending"] = ["Disabled", "Enabled"][int(words[-1])]
        if gpu["at once"]:
            gpu["mode"] = gpu["pending"]
    elif "--gpu-reset" in words:
        if not gpu["resets"]:
            sys.exit("GPU is in use")
        gpu.update(mode=gpu["pending"], parts=[])
    elif "-cgi" in words:
        if gpu["mode"] != "Enabled":
            sys.exit("no MIG mode")
        gpu["parts"] = words[words.index("-cgi") + 1].split(",")
    elif not gpu["parts"]:
        sys.exit("nothing to remove")
    elif "-dgi" in words:
        gpu["parts"] = []
state.write_text(json.dumps(gpus))
"""


class Desk:
    """Two GPUs, and the program that splits them."""

    def __init__(self, folder):
        self.state, self.journal = folder / "gpus.json", folder / "journal"
        self.layouts = folder / "mig.json"
        self.layouts.write_text(json.dumps({"version": "v1", "mig-configs": LAYOUTS}))
        self.bin = folder / "bin"
        self.bin.mkdir()
        smi = self.bin / "nvidia-smi"
        names = {"state": str(self.state), "journal": str(self.journal)}
        smi.write_text(SMI.format(python=sys.executable, **names))
        smi.chmod(0o755)
        self.set()

    def set(self, **changes):
        gpu = {
            "mode": "Disabled",
            "pending": "Disabled",
            "parts": [],
            "resets": True,
            "at once": False,
        }
        self.state.write_text(json.dumps([gpu | changes] * 2))

    def __call__(self, verb, name, status=0):
        self.journal.write_text("")
        argv = [sys.executable, str(PROGRAM), verb, str(self.layouts), name]
        env = {**os.environ, "PATH": f"{self.bin}:{os.environ['PATH']}"}
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        return done.stderr

    @property
    def gpus(self):
        return [(gpu["mode"], gpu["parts"]) for gpu in json.loads(self.state.read_text())]

    @property
    def changes(self):
        asked = ("--query-gpu", "-L")
        return [x for x in self.journal.read_text().splitlines() if not x.startswith(asked)]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path)


def test_gpus_are_split(desk):
    desk("apply", "halves")
    assert desk.gpus == [("Enabled", ["3g.40gb", "3g.40gb"])] * 2
    desk("check", "halves")


def test_some_are_and_others_are_not(desk):
    desk("apply", "mixed")
    assert desk.gpus == [("Disabled", []), ("Enabled", ["1g.10gb", "1g.10gb", "2g.20gb"])]


def test_a_second_time_nothing_is_touched(desk):
    desk("apply", "halves")
    desk("apply", "halves")
    assert desk.changes == []


def test_after_a_restart_the_mode_is_there_and_instances_are_made(desk):
    desk.set(mode="Enabled", pending="Enabled")
    desk("apply", "halves")
    assert not [line for line in desk.changes if "-mig" in line or "reset" in line]
    assert desk.gpus == [("Enabled", ["3g.40gb", "3g.40gb"])] * 2


def test_another_layout_takes_the_place_of_the_first(desk):
    desk("apply", "halves")
    desk("apply", "mixed")
    assert desk.gpus == [("Disabled", []), ("Enabled", ["1g.10gb", "1g.10gb", "2g.20gb"])]


def test_a_mode_that_is_there_at_once_needs_no_reset(desk):
    desk.set(**{"at once": True})
    desk("apply", "halves")
    assert not [line for line in desk.changes if "reset" in line]


def test_a_gpu_that_cannot_be_reset_wants_a_restart(desk):
    desk.set(resets=False)
    assert "when the machine restarts" in desk("apply", "halves", status=1)


def test_a_gpu_that_cannot_be_split_is_an_error_where_it_should_be(desk):
    desk.set(mode="[N/A]", pending="[N/A]")
    assert "GPU 0 cannot be split" in desk("apply", "halves", status=1)
    desk("apply", "whole")


def test_check_tells_what_differs_and_changes_nothing(desk):
    assert "GPU 0 has mode Disabled" in desk("check", "halves", status=1)
    assert desk.changes == []
    desk("apply", "mixed")
    assert "GPU 1 has {'1g.10gb': 2, '2g.20gb': 1}" in desk("check", "halves", status=1)


@pytest.mark.parametrize(
    ("name", "said"),
    [("quarters", "has no layout quarters; it has halves"), ("third", "is about GPU 2")],
)
def test_a_layout_that_cannot_be_is_told(desk, name, said):
    assert said in desk("apply", name, status=1)
    assert desk.changes == []
