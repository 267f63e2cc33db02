"""The checks of the role kernel_cmdline, on answers of sound and of broken machines."""

from __future__ import annotations

from pathlib import Path

import yaml

CHECKS = "ansible/roles/kernel_cmdline/checks/test_kernel_cmdline.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/kernel_cmdline"
MACHINE = "machine.py"
IMAGE = "/boot/vmlinuz-6.12.117+deb13-cloud-amd64"
GIVEN = ["root=LABEL=root", "ro", "console=tty0", "console=ttyS0,115200"]


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    wanted = defaults["kernel_cmdline_parameters"]
    machine = {
        "container": "none",
        "entries": [[IMAGE, *GIVEN, *wanted]],
        "later": ["quiet", *wanted],
        "running": [f"BOOT_IMAGE={IMAGE}", *GIVEN, *wanted],
    }
    return {"expected": defaults, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


MENU = "test_every_entry_of_the_menu_has_them"
NEXT = "test_the_next_menu_would_have_them"
RUNNING = "test_the_running_kernel_has_them"
CONSOLES = ["console=tty1", "console=hvc0"]
# Case: (what is different, checks that are skipped).
SOUND = {
    "as built": ({},),
    "in a container": (told(container="systemd-nspawn", running=["quiet"]), RUNNING),
    "the settings had another": (told(later=["iommu=off", "iommu=pt"]),),
    "several of one name": (
        {
            "expected": {"kernel_cmdline_parameters": (..., CONSOLES)},
            MACHINE: {
                "entries": (..., [[IMAGE, "ro", *CONSOLES]]),
                "later": CONSOLES,
                "running": CONSOLES,
            },
        },
    ),
}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "the menu lacks one": (told(entries=(..., [[IMAGE, *GIVEN]])), MENU),
    "the second entry lacks one": (told(entries=(None, [IMAGE, *GIVEN])), MENU),
    "the menu has another of the name": (
        told(entries=(..., [[IMAGE, "iommu=off", *GIVEN, "iommu=pt"]])),
        MENU,
    ),
    "the menu starts nothing": (told(entries=[]), MENU),
    "the next menu lacks one": (told(later=["quiet"]), NEXT),
    "the kernel was not told": (told(running=GIVEN), RUNNING),
    "nobody knows whether it is a container": (told(container=""), RUNNING),
}
