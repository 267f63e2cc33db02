"""The checks of the role mig, on answers of sound and of broken machines."""

from __future__ import annotations

CHECKS = "ansible/roles/mig/checks/test_mig.py"
MACHINE = "machine.py"
CONFIGS = {"halves": [{"devices": "all", "mig-enabled": True, "mig-devices": {"3g.40gb": 2}}]}
START = (
    "{ path=/usr/local/sbin/gpu-mig ; "
    "argv[]=/usr/local/sbin/gpu-mig apply /etc/gpu-host/mig.json halves ; ignore_errors=no ; }"
)
BEFORE_ALL = (
    "multi-user.target shutdown.target nvidia-persistenced.service nvidia-dcgm.service "
    "nvidia-dcgm-exporter.service gpu-monitor.service docker.service containerd.service "
    "kubelet.service nvidia-cdi-refresh.service"
)


def answer():
    machine = {
        "check": ["FileNotFoundError: [Errno 2] No such file or directory: 'nvidia-smi'"],
        "configs": CONFIGS,
        "gpu": False,
        "unit": {
            "enabled": "enabled",
            "ActiveState": "inactive",
            "Before": BEFORE_ALL,
            "ExecStart": START,
        },
    }
    return {"expected": {"mig_configs": CONFIGS, "mig_selected": "halves"}, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


LAYOUTS = "test_layouts_are_those_given"
BOOT = "test_the_layout_is_made_at_boot_where_a_gpu_is"
BEFORE, SPLIT = "test_it_is_made_before_gpus_are_used", "test_gpus_are_as_the_layout_says"
# Case: (what is different,).
SOUND = {
    "as built": ({},),
    "with a GPU": (told(gpu=True, check=[], unit={"ActiveState": "active"}),),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "a layout is missing": (told(configs=(..., {})), LAYOUTS),
    "another layout is there": (told(configs={"halves": []}), LAYOUTS),
    "not enabled": (told(unit={"enabled": "disabled"}), BOOT),
    "failed without a GPU": (told(unit={"ActiveState": "failed"}), BOOT),
    "another layout is made": (told(unit={"ExecStart": ("halves", "whole")}), BOOT),
    "made after GPUs are in use": (
        told(unit={"Before": ("nvidia-persistenced.service ", "")}),
        BEFORE,
    ),
    "made beside the description for containers": (
        told(unit={"Before": (" nvidia-cdi-refresh.service", "")}),
        BEFORE,
    ),
    "made while the exporter runs": (
        told(unit={"Before": ("nvidia-dcgm-exporter.service ", "")}),
        BEFORE,
    ),
    "GPUs are not split": (
        told(gpu=True, check=["not as layout halves says"], unit={"ActiveState": "active"}),
        SPLIT,
    ),
    "a GPU that is not there is split": (told(check=[]), SPLIT),
}
