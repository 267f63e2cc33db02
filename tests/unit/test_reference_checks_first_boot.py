"""The checks about the first boot with a GPU, on answers of sound and of broken machines."""

from __future__ import annotations

CHECKS = "stages/final/checks/test_first_boot.py"
IDS = {"L4": ["27B8"], "H100": ["2330", "2331"]}
PINNED = {"driver_version": "550.163.01", "cuda_version": "12.4", "pci_ids": IDS}
NO_GPU = "no NVIDIA GPU is here: none on the PCI bus, and no /dev/nvidia0"


def answer():
    machine = {
        "expected": PINNED,
        "gpu": False,
        "ran": {"status": 3, "said": NO_GPU, "outcome": "no-gpu", "junit": "<skipped />"},
        "results": "none",
        "unit": {
            "enabled": "enabled",
            "ActiveState": "inactive",
            "Result": "exec-condition",
            "After": "sysinit.target multi-user.target nvidia-cdi-refresh.service",
        },
    }
    expected = {
        "first_boot_gpu_check_expected": PINNED,
        "nvidia_driver_version": "550.163.01-2",
        "cuda_runtime_version": "12.4.127~12.4.1-2",
    }
    uses = {"first_boot_gpu_check": {}, "nvidia_driver": {}, "cuda_runtime": {}}
    gpus = {"L4": "8.9", "H100": "9.0"}
    return {"expected": expected, "uses": uses, "gpus": gpus, "first_boot.py": machine}


def told(**machine):
    return {"first_boot.py": machine}


SWITCHED = "test_unit_is_switched_as_was_asked"
WAITS = "test_nothing_waits_for_the_unit"
DESCRIBED = "test_gpus_are_described_to_containers_before_they_are_checked"
READY = "test_unit_is_ready_for_a_gpu"
SAYS = "test_program_says_that_no_gpu_is_here"
PASSED = "test_gpus_passed_on_their_first_boot"
WRITTEN = "test_expectations_are_written_down"
DRIVER = "test_expected_driver_is_the_pinned_one"
CUDA = "test_expected_cuda_is_the_pinned_one"
GPUS = "test_expected_gpus_are_the_declared_ones"
GPU = {"gpu": True, "results": "passed", "ran": {"status": 0, "said": "", "outcome": "passed"}}
QUESTIONS = ("expected", "gpu", "ran", "results", "unit")
OFF = {"expected": {"first_boot_gpu_check_enabled": False}}
# Case: (what is different, checks that are skipped).
SOUND = {
    "as sealed": ({}, PASSED),
    "in a container": (told(unit={"Result": "success"}), PASSED),
    "with a GPU": (told(**GPU), READY, SAYS),
    "switched off": ({**OFF, **told(unit={"enabled": "disabled"})}, PASSED),
    "nothing is expected": (
        {"expected": {"first_boot_gpu_check_expected": (..., {})}, **told(expected=(..., {}))},
        PASSED,
    ),
    "without the role first_boot_gpu_check": (
        {"uses": ("first_boot_gpu_check", None), "first_boot.py": dict.fromkeys(QUESTIONS)},
        *(SWITCHED, WAITS, DESCRIBED, READY, SAYS, PASSED, WRITTEN, DRIVER, CUDA, GPUS),
    ),
    "without a role of the driver": (
        {"uses": ("nvidia_driver", None), "expected": ("nvidia_driver_version", None)},
        *(PASSED, DRIVER, GPUS),
    ),
    "without the role cuda_runtime": (
        {"uses": ("cuda_runtime", None), "expected": ("cuda_runtime_version", None)},
        *(PASSED, CUDA),
    ),
}


def ran(**said):
    return told(ran=said)


def pinned(**said):
    """Expectations that the machine has, and that do not fit the pins."""
    other = PINNED | said
    return {"expected": {"first_boot_gpu_check_expected": other}, **told(expected=other)}


# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "the unit is disabled": (told(unit={"enabled": "disabled"}), SWITCHED),
    "the unit is not to run and does": (OFF, SWITCHED),
    "the boot waits for the unit": (told(unit={"After": ("multi-user.target ", "")}), WAITS),
    "GPUs are checked while they are described": (
        told(unit={"After": (" nvidia-cdi-refresh.service", "")}),
        DESCRIBED,
    ),
    "the unit failed": (told(unit={"ActiveState": "failed", "Result": "exit-code"}), READY),
    "the unit was killed": (told(unit={"Result": "signal"}), READY),
    "results of another machine": (told(results="passed"), READY),
    "nobody knows whether there is a GPU": (told(gpu="error: OSError()"), READY, SAYS, PASSED),
    "the program stumbles": (ran(status=1), SAYS),
    "the program does not say why": (ran(said=""), SAYS),
    "the program passes what is not there": (ran(outcome="passed"), SAYS),
    "JUnit passes what is not there": (ran(junit="<testcase />"), SAYS),
    "a GPU failed": (told(**{**GPU, "results": "failed"}), PASSED),
    "a GPU was not checked": (told(**{**GPU, "results": "none"}), PASSED),
    "the machine expects another driver": (
        told(expected={"driver_version": "535.261.03"}),
        *(WRITTEN, DRIVER),
    ),
    "the driver was raised alone": (pinned(driver_version="535.261.03"), DRIVER),
    "a GPU was declared alone": ({"gpus": {"H200": "9.0"}}, GPUS),
    "a GPU that is not declared is expected": (pinned(pci_ids={**IDS, "H200": ["2335"]}), GPUS),
    "a GPU that nobody knows is declared": ({"gpus": {"X1": None}}, GPUS),
    "CUDA was raised alone": (pinned(cuda_version="12.2"), CUDA),
}
