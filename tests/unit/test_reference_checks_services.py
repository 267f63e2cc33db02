"""The checks of the services of GPUs, on answers of sound and of broken machines."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECKS = "stages/drivers/checks/test_services.py"
SERVICES = "test_services_of_gpus_are_enabled_and_did_not_fail"
PERSISTENCED = "test_persistenced_is_enabled_and_did_not_fail"
UNIT = "nvidia-persistenced.service"
CDI, CDI_PATH = "nvidia-cdi-refresh.service", "nvidia-cdi-refresh.path"
# The units of GPUs that roles of this stage enable, but for persistenced.
ENABLED = [CDI, CDI_PATH, "gpu-mig.service", "nvidia-dcgm.service"]
ENABLED += [f"nvidia-{name}.service" for name in ("dcgm-exporter", "fabricmanager", "imex")]
SLEEPING = {"enabled": "enabled", "state": "inactive"}
WAITING = {"enabled": "enabled", "state": "active"}


def answer():
    return {
        "expected": {},
        "uses": {"nvidia_driver": {}, "nvidia_persistenced": {}},
        "services.py": {"gpu": False, "services": {UNIT: SLEEPING}},
    }


def told(**machine):
    return {"services.py": machine}


# Case: (what is different, checks that are not asked).
SOUND = {
    "as built": ({},),
    "with a GPU": (told(gpu=True, services={UNIT: {"state": "active"}}),),
    # Without a GPU their conditions are not met; a path waits whether there is one or not.
    "with all services": (
        told(services={**dict.fromkeys(ENABLED, SLEEPING), CDI_PATH: WAITING}),
    ),
    # What is done once and ended well: it remains active, or it does not.
    "with all services, and a GPU": (
        told(gpu=True, services={**dict.fromkeys((*ENABLED, UNIT), WAITING), CDI: SLEEPING}),
    ),
    "without the role nvidia_persistenced": (
        {"uses": ("nvidia_persistenced", None), **told(services=(UNIT, None))}, PERSISTENCED,
    ),
    "without a role of the driver": (
        {"uses": ("nvidia_driver", None)}, SERVICES, PERSISTENCED,
    ),
}  # fmt: skip
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "persistenced is disabled": (
        told(services={UNIT: {"enabled": "disabled"}}), PERSISTENCED, SERVICES,
    ),
    "persistenced failed": (told(services={UNIT: {"state": "failed"}}), PERSISTENCED, SERVICES),
    "no persistenced": (told(services=(UNIT, None)), PERSISTENCED),
    "persistenced sleeps beside a GPU": (told(gpu=True), PERSISTENCED),
    "fabric manager is disabled": (
        told(services={"nvidia-fabricmanager.service": {**SLEEPING, "enabled": "disabled"}}),
        SERVICES,
    ),
    "the exporter is disabled": (
        told(services={"nvidia-dcgm-exporter.service": {**SLEEPING, "enabled": "disabled"}}),
        SERVICES,
    ),
    **{
        f"{name} failed": (told(services={unit: {**SLEEPING, "state": "failed"}}), SERVICES)
        for name, unit in {
            "DCGM": "nvidia-dcgm.service",
            "the exporter": "nvidia-dcgm-exporter.service",
            "the description of devices": CDI,
            "splitting GPUs": "gpu-mig.service",
        }.items()
    },
}  # fmt: skip


def test_the_checks_ask_about_every_unit_that_roles_of_gpus_enable():
    roles = [path.parents[1] for path in (ROOT / "ansible/roles").glob("*/files/needs-a-gpu.conf")]
    roles += [ROOT / "ansible/roles" / name for name in ("mig", "nvidia")]
    texts = [path.read_text() for role in roles for path in role.glob("*/main.yml")]
    unit = r"\b(?:gpu|nvidia)-[a-z-]+[.](?:path|service)\b"
    asked = set(program()["SERVICES"])
    assert asked == {name for text in texts for name in re.findall(unit, text)}
    assert asked == {*ENABLED, UNIT}


def program() -> dict:
    """The names of the program that is sent to the machine; nothing is asked."""
    text, names = (ROOT / CHECKS).with_name("services.py").read_text(), {}
    exec(text.rpartition("\nprint(")[0], names)  # noqa: S102 - ours, without its last line
    return names
