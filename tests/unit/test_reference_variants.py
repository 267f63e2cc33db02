"""The variants of the reference pipeline, as far as nothing has to be built to know it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.caches.wheels import target_of
from builder.compat import rules
from builder.compat.finding import accepting, worst
from builder.compat.stack import planned
from builder.compat.table import read_table
from builder.compat.versions import major, numbers
from builder.memo import Tree
from builder.needs import needs_of
from builder.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
STAGES = ("base", "drivers", "frameworks", "final")
MONTH = "2026-11"
# Variant: the worst that is found of what it wants.
FOUND = {
    "debian-13": "warn",
    "debian-13-torch": "warn",
    "debian-13-metal": "warn",
    "debian-12": "note",
}
FLAVOURS = {"debian-13-metal": "generic"}


@pytest.fixture(scope="module")
def table():
    found = read_table(Tree(ROOT))
    assert found is not None
    return found


@pytest.fixture(params=FOUND)
def pipeline(request):
    return load_pipeline(ROOT, request.param)


def test_what_a_variant_wants_goes_together(pipeline, table):
    found = rules.judge(planned(pipeline, STAGES, table), table, MONTH)
    assert worst(accepting(found, pipeline.accept)) == FOUND[pipeline.variant]


def test_a_branch_that_ended_is_accepted_knowingly(table):
    pipeline = load_pipeline(ROOT, "debian-12")
    found = rules.judge(planned(pipeline, STAGES, table), table, MONTH)
    assert [each.rule for each in found if each.level == "warn"] == list(pipeline.accept)


def test_the_kernel_is_one_in_its_three_places(pipeline):
    variables = pipeline.variables_of("base")
    flavour = "generic" if "-cloud-" not in variables["kernel_pin_release"] else "cloud"
    assert flavour == FLAVOURS.get(pipeline.variant, "cloud")
    names = [f"linux-{part}-{variables['kernel_pin_release']}" for part in ("image", "headers")]
    settings = pipeline.source.settings
    assert [name for name in settings["packages"] if name.startswith("linux-")] == [
        f"{name}={variables['kernel_pin_version']}" for name in names
    ]
    assert settings["hold"] == names


def test_the_variant_for_bare_metal_differs_in_its_kernel_alone():
    cloud, metal = (load_pipeline(ROOT, name) for name in ("debian-13", "debian-13-metal"))
    assert _without_kernel(cloud) == _without_kernel(metal)
    assert metal.source.settings["hold"] == [
        name.replace("-cloud-", "-") for name in cloud.source.settings["hold"]
    ]


def _without_kernel(pipeline):
    settings = {
        name: [each for each in value or () if "linux-" not in each]
        for name, value in pipeline.source.settings.items()
    }
    uses = {
        (stage.name, use.name): {**use.variables, "kernel_pin_release": None}
        for stage in pipeline.stages
        for use in stage.roles
    }
    return settings, uses


def test_locks_are_made_for_the_python_of_the_suite(pipeline):
    target = target_of(None, pipeline.source.settings["suite"])
    texts = [(ROOT / need.path).read_text() for need in needs_of(pipeline).wheels]
    header = re.compile(r"^# Made by: .*--python-version ([0-9.]+)", re.MULTILINE)
    assert [header.findall(text) for text in texts] == [[target.python]] * len(texts)
    assert texts


def test_what_a_machine_is_compared_with_are_the_pins(pipeline, table):
    variables = pipeline.variables_of("final")
    assert variables["first_boot_gpu_check_expected"] == {
        "driver_version": variables["nvidia_driver_version"].partition("-")[0],
        "cuda_version": ".".join(variables["cuda_runtime_version"].split(".")[:2]),
        "pci_ids": {name: table.gpus[name].pci for name in variables["nvidia_driver_gpus"]},
    }


def test_every_branch_says_which_cuda_its_library_speaks(table):
    said = {branch: row.cuda for branch, row in table.drivers.items()}
    assert [branch for branch, cuda in said.items() if cuda is None] == []
    in_order = [said[branch] for branch in sorted(said, key=int)]
    assert in_order == sorted(in_order, key=numbers)


def test_a_branch_speaks_the_newest_cuda_that_came_with_it(table):
    said = {branch: row.cuda for branch, row in table.drivers.items()}
    newest: dict[str, str] = {}
    for cuda in sorted(table.cuda, key=numbers):
        newest[major(table.cuda[cuda].driver)] = cuda
    # No toolkit of the table came with these: the drivers' archive says it of them.
    assert said.keys() - newest.keys() == {"610", "620"}
    assert {branch: newest.get(branch, said[branch]) for branch in said} == said
