"""The kernel is told what it shall be told: by the menu, by the next menu, and in this boot."""

import json
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host):
    """What the machine says about the kernel's command line."""
    done = host.run("python3 -c %s", PROGRAM)
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


def those_named_like(parameters, words):
    """The words that have the name of one of the parameters, in their order."""
    names = {name.partition("=")[0] for name in parameters}
    return [word for word in words if word.partition("=")[0] in names]


def test_every_entry_of_the_menu_has_them(machine, expected):
    wanted = expected["kernel_cmdline_parameters"]
    assert machine["entries"]
    for image, *words in machine["entries"]:
        assert those_named_like(wanted, words) == wanted, image


def test_the_next_menu_would_have_them(machine, expected):
    wanted = expected["kernel_cmdline_parameters"]
    # The kernel keeps the last of a name: what comes before ours does not count.
    assert those_named_like(wanted, machine["later"])[-len(wanted) :] == wanted


def test_the_running_kernel_has_them(machine, container, expected):
    if container:
        pytest.skip("the kernel belongs to the host of the container")
    wanted = expected["kernel_cmdline_parameters"]
    assert those_named_like(wanted, machine["running"]) == wanted
