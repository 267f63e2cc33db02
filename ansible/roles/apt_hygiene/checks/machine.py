"""What the checks ask about packages that come and stay by themselves, in one go; prints JSON.

Argument: the units that must not run and the packages that must not be there, as JSON.
"""

import json
import re
import subprocess
import sys
import tempfile

UNITS, PACKAGES = json.loads(sys.argv[1])
STATES = ("dpkg-query", "--show", "--showformat", "${db:Status-Status} ${Package}\n")

# No cache of apt's own: it would be taken for a leftover of the build.
UNNEEDED = (
    "apt-get", "--simulate", "--option", "Dir::Cache::pkgcache=", "--option",
    "Dir::Cache::srcpkgcache=", "autoremove",
)  # fmt: skip


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def sure(*command):
    """For a question whose good answer is nothing, as that of a program that failed is, too."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def present():
    """Those of the packages that are there, if only as configuration."""
    names = {line.split(" ")[1] for line in sure(*STATES).splitlines()}
    return sorted(names & set(PACKAGES))


def unneeded():
    """What came for the sake of a package that is gone."""
    # It writes down what it planned, and a log is what hygiene looks for.
    with tempfile.TemporaryDirectory() as folder:
        said = sure(*UNNEEDED, "--option", f"Dir::Log={folder}")
    return re.findall(r"^Remv (\S+)", said, re.MULTILINE)


ASKED = {
    "periodic": lambda: say("apt-config", "dump", "APT::Periodic").splitlines(),
    "present": present,
    "timers": lambda: sure("systemctl", "list-timers", "--plain", "--no-legend"),
    "units": lambda: {unit: say("systemctl", "is-enabled", unit) for unit in UNITS},
    "unneeded": unneeded,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
