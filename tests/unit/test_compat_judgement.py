"""A project judged by its table: what is refused, where it stands, what a variant accepts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from builder.cli import main
from builder.compat.judgement import Judge
from builder.digest import Facts, StatCache
from builder.errors import CheckError, ProjectError
from builder.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
TABLE = "stages/compatibility.yml"
SPECS = """\
    argument_specs:
      main:
        options:
          nvidia_driver_version: {type: str}
          nvidia_driver_flavour: {type: str, choices: [open, proprietary, auto]}
          nvidia_driver_gpus: {type: list, elements: str}
    """
DRIVER = """\
    roles: [nvidia_driver]
    variables:
      nvidia_driver_version: 550.163.01-2
      nvidia_driver_flavour: proprietary
      nvidia_driver_gpus: [H100]
    """
FRAMEWORKS = """\
    parent: base
    roles: [frameworks]
    variables: {frameworks_lock: torch.lock}
    """
FRAMEWORKS_SPECS = """\
    argument_specs: {main: {options: {frameworks_lock: {type: path}}}}
    """
LOCK = "torch==2.15.0 \\\n    --hash=sha256:" + "0" * 64 + "\n"


@pytest.fixture
def folder(project):
    """The small project, with a driver below, and the project's own table."""
    role = "ansible/roles/nvidia_driver"
    root = project(
        {
            f"{role}/meta/argument_specs.yml": SPECS,
            f"{role}/tasks/main.yml": "[]\n",
            "stages/base/stage.yml": DRIVER,
        }
    )
    shutil.copy(ROOT / TABLE, root / TABLE)
    return root


@pytest.fixture
def with_torch(folder, project):
    """With a stage on top, whose lock file has a torch that is too new."""
    role = "ansible/roles/frameworks"
    return project(
        {
            f"{role}/meta/argument_specs.yml": FRAMEWORKS_SPECS,
            f"{role}/tasks/main.yml": "[]\n",
            "stages/final/stage.yml": FRAMEWORKS,
            "stages/final/torch.lock": "# made by a tool\n" + LOCK,
        }
    )


def judge(root, variant="one"):
    index = root / "cache/var/index"
    pipeline = load_pipeline(root, variant)
    return Judge(pipeline, StatCache(root, index / "files.json"), Facts(index / "facts.json"))


def refused(root, stages=("base", "final"), variant="one"):
    with pytest.raises(ProjectError) as caught:
        judge(root, variant).require(stages)
    return caught.value


def edit(root, old, new, file="stages/base/stage.yml"):
    path = root / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


# --- what is wanted -------------------------------------------------------------------------------


def test_what_goes_together_is_let_pass(folder):
    found = judge(folder).require(["base", "final"])
    assert {each.level for each in found} == {"ok", "note", "warn"}


def test_a_project_without_a_table_is_not_judged(folder):
    (folder / TABLE).unlink()
    edit(folder, "H100", "B200")
    assert judge(folder).require(["base"]) == []


def test_what_cannot_work_is_refused_where_it_stands(folder):
    edit(folder, "H100", "B200")
    error = refused(folder)
    assert error.exit_status == 2
    places = {(str(each.file), each.line, each.key) for each in error.problems}
    assert places == {
        ("stages/base/stage.yml", 3, "variables.nvidia_driver_version"),
        ("stages/base/stage.yml", 4, "variables.nvidia_driver_flavour"),
    }
    assert "accept: [gpu-driver, gpu-module] in the variant one" in error.hint


def test_a_lock_file_is_judged_at_its_line(with_torch):
    (problem,) = refused(with_torch).problems
    assert (str(problem.file), problem.line) == ("stages/final/torch.lock", 2)
    assert "CUDA 13.2 of torch 2.15.0 needs driver 580.65.06 or later" in problem.message


def test_a_stage_is_not_held_up_by_what_stands_on_it(with_torch):
    """Somebody builds the base while the frameworks' lock is still wrong."""
    judge(with_torch).require(["base"])


def test_a_variant_may_accept_a_rule(folder):
    edit(folder, "H100", "B200")
    edit(
        folder, "  one:\n", "  one:\n    accept: [gpu-driver, gpu-module]\n", "stages/pipeline.yml"
    )
    found = judge(folder).require(["base"])
    assert {each.rule for each in found if each.level == "note"} >= {"gpu-driver", "gpu-module"}
    refused(folder, ["base"], "two")


def test_a_rule_that_does_not_exist_cannot_be_accepted(folder):
    edit(folder, "  one:\n", "  one:\n    accept: [gpu-drivers]\n", "stages/pipeline.yml")
    with pytest.raises(ProjectError, match="accept"):
        load_pipeline(folder)


def test_mistakes_of_the_table_are_told_all_at_once(folder):
    edit(folder, 'source: cuda-notes}\n  "11.5"', 'source: cuda-nots}\n  "11.5"', TABLE)
    with pytest.raises(ProjectError, match=r'there is no source "cuda-nots".*cuda-notes'):
        judge(folder).require(["base"])
    edit(folder, "cuda-nots", "cuda-notes", TABLE)
    edit(folder, 'ends: "2028-06"', "ends: June", TABLE)
    edit(folder, "modules: [open]", "modules: [opened]", TABLE)
    with pytest.raises(ProjectError) as caught:
        judge(folder).require(["base"])
    assert len(caught.value.problems) >= 3, "one branch, two generations"


SPEAKS = ', cuda: "13.2", cuda_source: cuda-notes}'


@pytest.mark.parametrize(
    ("instead", "says"),
    [
        (', cuda: "13.2"}', "gives one of cuda and cuda_source"),
        (", cuda_source: cuda-notes}", "gives one of cuda and cuda_source"),
        (', cuda: "13.2", cuda_source: cuda-nots}', r'no source "cuda-nots".*cuda-notes'),
        (', cuda: "13", cuda_source: cuda-notes}', "is no minor version"),
    ],
)
def test_a_branch_says_on_whose_word_it_speaks_a_cuda(folder, instead, says):
    edit(folder, SPEAKS, instead, TABLE)
    with pytest.raises(ProjectError, match=says):
        judge(folder).require(["base"])


STACKED = {
    "cuda_runtime": ("{cuda_runtime_version: {type: str}}", {"cuda_runtime_version": "12.4.127-1"}),
    "cudnn": (
        "{cudnn_version: {type: str}, cudnn_cuda_major: {type: int}}",
        {"cudnn_version": "9.1.0.70-1", "cudnn_cuda_major": 12},
    ),
    "fabric_manager": (
        "{fabric_manager_version: {type: str}, fabric_manager_platform: {type: str}}",
        {"fabric_manager_version": "550.163.01-1", "fabric_manager_platform": "nvswitch"},
    ),
}


@pytest.fixture
def stacked(folder, project):
    """With CUDA, cuDNN and the fabric manager on the driver."""
    files = {}
    for role, (options, _) in STACKED.items():
        specs = f"argument_specs: {{main: {{options: {options}}}}}\n"
        files[f"ansible/roles/{role}/meta/argument_specs.yml"] = specs
        files[f"ansible/roles/{role}/tasks/main.yml"] = "[]\n"
    said = [f"  {key}: {value}" for _, given in STACKED.values() for key, value in given.items()]
    files["stages/base/stage.yml"] = "\n".join(
        [f"roles: [nvidia_driver, {', '.join(STACKED)}]", "variables:", *said,
         "  nvidia_driver_version: 550.163.01-2", "  nvidia_driver_gpus: [H100]", ""]
    )  # fmt: skip
    return project(files)


def test_the_images_own_cudnn_and_the_fabric_manager_are_judged(stacked):
    found = {each.rule: each for each in judge(stacked).require(["base"])}
    assert found["cudnn"].level == found["fabric-version"].level == "ok"
    assert found["fabric-version"].message.startswith("fabric_manager_version is 550.163.01")


@pytest.mark.parametrize(
    ("variable", "right", "wrong", "says"),
    [
        ("cudnn_cuda_major", "12", "13", "is of packages for CUDA 13"),
        ("cudnn_version", "9.1.0.70-1", "9.0.0.312-1", "9.0.0.312 is not made for CUDA 12.4"),
        ("fabric_manager_version", "550.163.01-1", "550.54.15-1", "550.54.15, the driver 550.163"),
        ("fabric_manager_platform", "nvswitch", "imex", "must be nvswitch or nvlink5, and is imex"),
    ],
)
def test_what_stands_on_the_driver_is_refused_where_it_is_said(
    stacked, variable, right, wrong, says
):
    edit(stacked, f"{variable}: {right}", f"{variable}: {wrong}")
    (problem,) = refused(stacked, ["base"]).problems
    assert says in problem.message
    assert problem.key == f"variables.{variable}"


def test_a_platform_that_nothing_says_is_a_note(folder):
    """The role may be left out on purpose: not every board of that name has switches."""
    (found,) = [each for each in judge(folder).require(["base"]) if each.rule == "fabric-platform"]
    assert (found.level, found.source) == ("note", "fabric-manager")
    assert found.message.startswith("H100: boards with NVLink switches want")


def test_a_gpu_names_a_fabric_of_the_table(folder):
    edit(folder, "fabric: imex", "fabric: imx", TABLE)
    with pytest.raises(ProjectError, match=r'GB200: no fabric "imx".*imex'):
        judge(folder).require(["base"])


# --- what is remembered ---------------------------------------------------------------------------


def test_an_answer_is_remembered_and_an_edit_makes_another(folder):
    first = judge(folder).wanted(["base"])
    assert judge(folder).wanted(["base"]) == first
    edit(folder, "H100", "B200")
    assert judge(folder).wanted(["base"]) != first
    edit(folder, "B200", "H100")
    edit(folder, '"2339"], architecture: hopper', '"2339"], architecture: volta', TABLE)
    assert judge(folder).wanted(["base"]) != first


# --- auto -----------------------------------------------------------------------------------------


def flavour(root):
    pipeline = judge(root).settled()
    return pipeline.variables_of("base")["nvidia_driver_flavour"]


def test_auto_becomes_the_module_that_fits(folder):
    edit(folder, "flavour: proprietary", "flavour: auto")
    assert flavour(folder) == "proprietary"
    edit(folder, "version: 550.163.01-2", "version: 580.95.05-1")
    edit(folder, "H100", "B200")
    assert flavour(folder) == "open"


def test_what_is_said_stays(folder):
    edit(folder, "version: 550.163.01-2", "version: 580.95.05-1")
    assert flavour(folder) == "proprietary"


def test_without_a_table_auto_stays(folder):
    edit(folder, "flavour: proprietary", "flavour: auto")
    (folder / TABLE).unlink()
    assert flavour(folder) == "auto"


# --- what an image has ----------------------------------------------------------------------------


def test_an_image_is_refused_for_what_it_has(folder):
    good = {"dpkg": {"libcuda1": "550.163.01-2", "nvidia-kernel-dkms": "550.163.01-2"}}
    judge(folder).require_installed(["base"], good, "base")
    torch = {"torch": "2.15.0", "nvidia-cuda-runtime": "13.2.86"}
    with pytest.raises(CheckError, match=r"base: what is installed.*\n.*580\.65\.06") as caught:
        judge(folder).require_installed(["base"], {**good, "python torch": torch}, "base")
    assert "vaultbuild compat base --image" in caught.value.hint


def test_an_image_without_its_driver_is_refused(folder):
    bare = {"dpkg": {"libc6": "2.41-12"}}
    with pytest.raises(
        CheckError, match=r"brings the driver 550.*\n.*brings the proprietary module"
    ):
        judge(folder).require_installed(["base"], bare, "base")
    judge(folder).require_installed([], bare, "base")


# --- the command ----------------------------------------------------------------------------------


def ask(folder, *words):
    return CliRunner().invoke(main, ["compat", "--project", str(folder), *words])


def test_the_command_judges(folder):
    said = ask(folder, "base")
    assert said.exit_code == 0, said.output
    assert "driver branch 550 ended" in said.stdout
    assert "more; -v tells them all" in said.stdout
    edit(folder, "H100", "B200")
    said = ask(folder, "base")
    assert said.exit_code == 1
    assert "fail  B200 needs driver 570 or later" in said.stdout


def test_the_command_tells_sources(folder):
    assert "says: CUDA" not in ask(folder, "base").stdout
    assert "says: nvidia.ids in Debian's" in ask(folder, "base", "-v").stdout


def test_the_command_tells_machines(folder):
    document = json.loads(ask(folder, "base", "--json").stdout)
    assert document["schema"] == 1
    assert {"rule", "level", "message", "source", "cure"} <= set(document["findings"][0])


def test_the_command_answers(folder):
    said = ask(folder, "--gpu", "B200", "--with", "torch==2.8.0")
    assert said.stdout.splitlines()[0] == "drivers for B200 with torch 2.8.0"
    document = json.loads(ask(folder, "--gpu", "B200", "--json").stdout)
    assert document["answers"][0]["branch"] == "620"


@pytest.mark.parametrize("form", [(), ("--json",)])
@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("--driver", "570", "--gpu", "B200", "--with", "torch==2.8.0"), 0),
        (("--driver", "550", "--gpu", "B200", "--with", "torch==2.8.0"), 1),
        (("--driver", "570", "--gpu", "B200", "--with", "torch"), 0),
        (("--driver", "550", "--gpu", "B200", "--with", "torch"), 1),
        (("--gpu", "V100", "--gpu", "B200"), 1),
    ],
)
def test_a_question_to_which_nothing_is_an_answer_ends_with_1(folder, words, status, form):
    assert ask(folder, *words, *form).exit_code == status


@pytest.mark.parametrize("option", ["--flavour", "--module"])
def test_the_flavour_can_be_asked_about_by_its_old_name_too(folder, option):
    document = json.loads(ask(folder, "--driver", "550", option, "open", "--json").stdout)
    assert [each["flavour"] for each in document["answers"]] == ["open"]
    shown = ask(folder, "--help").stdout
    assert "--flavour" in shown
    assert "--module" not in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--gpu", "B2000"], 'knows no GPU B2000; did you mean "B200"?'),
        (["--with", "pytorch"], "knows no framework pytorch"),
        (["--driver", "new"], "new is no version"),
        (["--driver", "999.1"], "knows no branch of the driver 999.1; known are 470"),
    ],
)
def test_a_question_about_the_unknown_is_refused(words, says, folder):
    said = ask(folder, *words)
    assert said.exit_code == 2
    assert says in said.stderr


def test_without_a_table_the_command_says_so(folder):
    (folder / TABLE).unlink()
    said = ask(folder, "base")
    assert said.exit_code == 2
    assert "stages/compatibility.yml: is missing" in said.stderr
