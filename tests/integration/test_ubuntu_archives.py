"""What apt takes for the Ubuntu variants, of archives on this host with the same packages.

The archives have an index and nothing behind it: apt decides by that alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
import pytest
import yaml

from builder.pipeline import load_pipeline

ROOT = Path(__file__).parents[2]
ROLES = ROOT / "ansible/roles"
# What the roles of the stage drivers ask apt for, by the names of their own variables.
ASKED_FOR = {
    "nvidia": "nvidia_pinned",
    "cuda_runtime": "cuda_runtime_packages | map('regex_replace', '$', '=' ~ cuda_runtime_version)",
    "cudnn": "cudnn_names | map('regex_replace', '$', '=' ~ cudnn_version)",
    "nccl": "nccl_packages | map('regex_replace', '$', '=' ~ nccl_version)",
    "dcgm": "dcgm_pinned",
    "fabric_manager": "fabric_manager_pinned",
    "nvidia_container_toolkit": (
        "nvidia_container_toolkit_packages"
        " | map('regex_replace', '$', '=' ~ nvidia_container_toolkit_version)"
    ),
}
TOOLKIT = ("libnvidia-container", "nvidia-container-toolkit")


def asked_for(variant, folder):
    """Return what the roles ask for, as Ansible works it out: ``name=version``."""
    uses = load_pipeline(ROOT, variant).stage("drivers").roles
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars_files": [
                str(path)
                for part in ("defaults", "vars")
                if (path := ROLES / use.role / part / "main.yml").is_file()
            ],
            # What "auto" means where a driver of branch 580 is.
            "vars": {k: "open" if v == "auto" else v for k, v in use.variables.items()},
            "tasks": [
                {"ansible.builtin.debug": {"msg": f"ASKED{{{{ {ASKED_FOR[use.role]} | list }}}}"}}
            ],
        }
        for use in uses
        if use.role in ASKED_FOR
    ]
    (folder / "play.yml").write_text(yaml.safe_dump(play))
    program = Path(sys.executable).with_name("ansible-playbook")
    done = subprocess.run(
        [program, "-i", "localhost,", folder / "play.yml"],
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lists = [line.partition("ASKED")[2].rstrip('"') for line in done.stdout.splitlines()]
    return [name for text in lists if text for name in json.loads(text.replace("'", '"'))]


def index(pins):
    """Return the text of an index with these packages."""
    return "\n".join(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: ./{name}.deb\n"
        f"Size: 1\nSHA256: {'0' * 64}\nMaintainer: nobody <nobody@example.com>\n"
        for name, _, version in (pin.partition("=") for pin in pins)
    )


def rendered(name, use):
    """Return a template of the role apt_repository, filled in as Ansible would."""
    environment = jinja2.Environment(trim_blocks=True, autoescape=False)  # noqa: S701 - no HTML
    environment.filters["urlsplit"] = lambda url, part: getattr(urlsplit(url), part)
    text = (ROLES / "apt_repository/templates" / name).read_text()
    return environment.from_string(text).render(use)


class Apt:
    """An apt of its own, with archives in folders; ``hosts`` gives each the name of its host."""

    def __init__(self, root, require_program):
        self.root, self.program = root, require_program("apt-get")
        for folder in ("sources", "preferences", "state/lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True)
        (root / "status").touch()

    def archive(self, name, pins):
        folder = self.root / "archives" / name
        folder.mkdir(parents=True)
        (folder / "Packages").write_text(index(pins))
        return f"file:{folder}"

    def add(self, name, sources, preferences=""):
        # Who signs is not the question here.
        (self.root / f"sources/{name}.sources").write_text(f"{sources.rstrip()}\nTrusted: yes\n")
        (self.root / f"preferences/{name}.pref").write_text(preferences)

    def __call__(self, program, *arguments):
        options = {
            "Dir::State": self.root / "state",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root / "cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": self.root / "sources",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": self.root / "preferences",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "root",
        }
        argv = [Path(self.program).with_name(program)]
        argv += [f"-o{name}={value}" for name, value in options.items()]
        done = subprocess.run(
            [*argv, *arguments], capture_output=True, text=True, check=True, env={"LC_ALL": "C"}
        )
        return done.stdout


@pytest.fixture
def apt(tmp_path, require_program):
    return Apt(tmp_path / "apt", require_program)


@pytest.mark.parametrize("variant", ["ubuntu-24.04", "ubuntu-24.04-550"])
def test_apt_takes_exactly_what_the_roles_ask_for(apt, tmp_path, variant):
    wanted = asked_for(variant, tmp_path)
    assert len(wanted) > 15
    assert len({pin.partition("=")[0] for pin in wanted}) == len(wanted)
    toolkit = [pin for pin in wanted if pin.startswith(TOOLKIT)]
    rest = [pin for pin in wanted if pin not in toolkit]
    newer = [f"{pin.partition('=')[0]}=9999:1" for pin in wanted]
    for use in load_pipeline(ROOT, variant).stage("drivers").roles:
        if use.role == "apt_repository":
            mine = toolkit if "toolkit" in use.variables["apt_repository_name"] else rest
            url = apt.archive(use.variables["apt_repository_name"], [*mine, *newer])
            given = {**use.variables, "apt_repository_uris": [url], "apt_repository_key": "none"}
            given = {"apt_repository_suites": ["./"], "apt_repository_components": []} | given
            sources = rendered("archive.sources.j2", given)
            sources = "".join(
                line for line in sources.splitlines(keepends=True) if "Signed-By" not in line
            )
            apt.add(use.variables["apt_repository_name"], sources)
    apt("apt-get", "update")
    said = apt("apt-get", "--simulate", "--no-install-recommends", "install", *wanted)
    taken = {
        f"{words[1]}={words[2].strip('()[]')}"
        for words in (line.split() for line in said.splitlines())
        if words[:1] == ["Inst"]
    }
    assert taken == set(wanted)


def test_ubuntus_packages_come_before_those_of_nvidia(apt):
    """As with the pins of the variant: what both have, NVIDIA's only where it is asked for."""
    use = next(
        use
        for use in load_pipeline(ROOT, "ubuntu-24.04").stage("drivers").roles
        if use.name == "apt_repository"
    )
    local = {**use.variables, "apt_repository_uris": [apt.archive("nvidia", ["a=2", "b=2"])]}
    local |= {"apt_repository_suites": ["./"]}
    apt.add("ubuntu", f"Types: deb\nURIs: {apt.archive('ubuntu', ['a=1'])}\nSuites: ./\n")
    preferences = rendered("archive.pref.j2", use.variables)
    assert 'Pin: origin "developer.' in preferences
    # Archives in folders are of no host, both of them: a name tells them apart here.
    release = apt.root / "archives/nvidia/Release"
    release.write_text("Origin: nvidia\nLabel: nvidia\n")
    preferences = "\n".join(
        "Pin: release o=nvidia" if line.startswith("Pin: origin") else line
        for line in preferences.splitlines()
    )
    apt.add("nvidia", rendered("archive.sources.j2", local).replace("Signed-By", "X"), preferences)
    apt("apt-get", "update")
    said = apt("apt-cache", "policy", "a", "b")
    assert [line.split()[1] for line in said.splitlines() if "Candidate:" in line] == ["1", "2"]
    said = apt("apt-get", "--simulate", "install", "a=2")
    assert "Inst a (2 " in said
