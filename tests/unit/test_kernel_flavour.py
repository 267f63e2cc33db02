"""One word of a variant decides its kernel: the packages, what is held, what the role is told."""
# ruff: noqa: E501 - a row of a table stays on one line

import pytest

from builder.kernel import Kernel, kernel_among
from builder.pipeline import load_pipeline
from builder.project import Project
from builder.upstream import Sources, relock
from builder.upstream.relock import Wanted

RULE = "kernel-module"
SUITE = "http://mirror.example/debian/dists/trixie"
PIPELINE = """\
schema: 1
name: tiny
version: "1.0.0"
variant: cloud
stages: [base, final]
variants:
  cloud:
    source: &packages
      bootstrap:
        suite: trixie
        mirrors: [deb http://mirror.example/debian trixie main]
        kernel: {release: 6.12.117+deb13, version: 6.12.117-1}
        packages: [python3]
        hold: [python3]
  metal:
    source: *packages
    kernel_flavour: generic
"""
ROLES = {
    "stages/base/stage.yml": "roles: [kernel_pin]\n",
    "ansible/roles/kernel_pin/meta/argument_specs.yml": """\
        argument_specs:
          main:
            options:
              kernel_pin_release: {type: str, required: true}
              kernel_pin_version: {type: str, required: true}
        """,
}
# Of the reference: a driver in one flavour, judged with the kernel that the role is told.
TABLE = """\
schema: 1
updated: now
sources: {seen: {what: seen, where: here}}
variables: {kernel: kernel_pin_release, driver: greeting_text, flavour: greeting_flavour}
kernel_builds:
"""
ROW = "  - {driver: 550.163.01, flavour: proprietary, kernel: %s, builds: true, source: seen}\n"


@pytest.fixture
def two_flavours(project):
    """A project whose two variants have one pin and two flavours; call it with changes."""
    project({"stages/pipeline.yml": PIPELINE, **ROLES})
    return project


@pytest.mark.parametrize(
    ("variant", "release"),
    [("cloud", "6.12.117+deb13-cloud-amd64"), ("metal", "6.12.117+deb13-amd64")],
)
def test_all_places_follow_from_the_flavour(two_flavours, variant, release):
    pipeline = load_pipeline(two_flavours(), variant)
    image, headers = f"linux-image-{release}", f"linux-headers-{release}"
    assert pipeline.source.settings == {
        "suite": "trixie",
        "components": ["main"],
        "mirrors": ["deb http://mirror.example/debian trixie main"],
        "packages": [f"{image}=6.12.117-1", f"{headers}=6.12.117-1", "python3"],
        "hold": [image, headers, "python3"],
        "cmdline": "console=tty0 console=ttyS0,115200",
    }
    assert pipeline.stage("base").roles[0].variables == {
        "kernel_pin_release": release,
        "kernel_pin_version": "6.12.117-1",
    }


def test_a_pin_is_the_same_as_its_packages_and_variables_by_hand(two_flavours):
    pinned = load_pipeline(two_flavours())
    by_hand = (
        "packages: [linux-image-6.12.117+deb13-cloud-amd64=6.12.117-1,"
        " linux-headers-6.12.117+deb13-cloud-amd64=6.12.117-1, python3]\n"
        "        hold: [linux-image-6.12.117+deb13-cloud-amd64,"
        " linux-headers-6.12.117+deb13-cloud-amd64, python3]\n"
        "    variables:\n"
        "      kernel_pin_release: 6.12.117+deb13-cloud-amd64\n"
        "      kernel_pin_version: 6.12.117-1\n"
    )
    head, tail = PIPELINE.split("        kernel: {")
    text = head.replace(" &packages", "") + "        " + by_hand
    written = load_pipeline(two_flavours({"stages/pipeline.yml": text}))
    assert written.source == pinned.source
    assert written.stages == pinned.stages
    assert "metal" in tail


def test_a_project_without_the_role_is_told_nothing(two_flavours):
    pipeline = load_pipeline(two_flavours({"stages/base/stage.yml": "roles: [greeting]\n"}))
    assert pipeline.variables_of("final") == {"greeting_text": "hello"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("generic", "gneric", "17: variants.metal.kernel_flavour: must be 'cloud' or 'generic', not \"gneric\""),
        ("6.12.117+deb13,", "6.12.117+deb13-amd64,", '12: variants.cloud.source.bootstrap.kernel.release: "6.12.117+deb13-amd64" is no release of a kernel without its flavour (write what uname -r prints, without -cloud-amd64 or -amd64)'),
        ("version: 6.12.117-1", "version: latest", '12: variants.cloud.source.bootstrap.kernel.version: "latest" is no version of a package (write it as dpkg prints it, in quotes where it is a number)'),
        ("packages: [", "packages: [linux-image-amd64, ", '9: variants.cloud.source.bootstrap: "linux-image-amd64" stands beside the pin of a kernel (remove one of them)'),
        ("    kernel_flavour: generic", "    variables: {kernel_pin_version: 6.12.117-1}", "17: variants.metal.variables.kernel_pin_version: follows from the pin of the kernel and the flavour (remove it: source.bootstrap.kernel and kernel_flavour decide)"),
        ("source: *packages", "source: {bootstrap: {suite: sid, packages: [linux-image-amd64]}}", "15: variants.metal: has a kernel_flavour, and its source pins no kernel (pin one: source: {bootstrap: {kernel: ...}})"),
    ],
)  # fmt: skip
def test_a_mistake(two_flavours, old, new, problem, problems):
    root = two_flavours({"stages/pipeline.yml": (old, new)})
    assert f"stages/pipeline.yml:{problem}" in problems(root)


def test_a_kernel_is_judged_in_the_flavour_of_its_variant(two_flavours):
    row = ROW.replace("true", "false") % "6.12.117+deb13-amd64"
    root = two_flavours(_judged(row))
    found = {
        name: Project(root, variant=name).judge.wanted(["base"]) for name in ("cloud", "metal")
    }
    levels = {
        (name, each.level) for name, all_ in found.items() for each in all_ if each.rule == RULE
    }
    assert levels == {("cloud", "note"), ("metal", "fail")}


@pytest.mark.parametrize(
    ("package", "kernel"),
    [
        ("linux-image-6.1.0-56-cloud-amd64=6.1.192-2", Kernel("6.1.0-56-cloud-amd64", "6.1.192-2")),
        ("linux-image-amd64=6.12.117-1", None),
        ("linux-image-6.12.117+deb13-amd64", None),
        ("linux-headers-6.12.117+deb13-amd64=6.12.117-1", None),
    ],
)
def test_a_kernel_among_packages(package, kernel):
    assert kernel_among(["python3", package]) == kernel


@pytest.mark.parametrize("release", ["6.1.0-56", "6.12.117+deb13"])
def test_a_kernel_in_another_flavour(release):
    cloud, generic = Kernel(f"{release}-cloud-amd64", "1"), Kernel(f"{release}-amd64", "1")
    assert cloud.bare == generic.bare == Kernel(release, "1")
    assert cloud.like(generic) == generic
    assert generic.like(cloud) == cloud
    assert generic.names == (f"linux-image-{release}-amd64", f"linux-headers-{release}-amd64")


# --- a newer one ----------------------------------------------------------------------------------


@pytest.fixture
def lock(two_flavours, archives):
    """Look for pins in the project, where an archive has a newer kernel in both flavours."""
    names = [f"linux-image-6.12.{n}+deb13{end}" for n in (117, 119) for end in ("-cloud", "")]
    versions = {f"{name}-amd64": f"{name.split('image-')[1].split('+')[0]}-1" for name in names}
    archives.publish(SUITE, {"main/binary-amd64": {**versions, "python3": "3.13.5-1"}})

    def find(*rows):
        root = two_flavours(_judged(*rows) if rows else {})
        web = Pages(archives.pages)
        found = relock.relock(root, Sources(web, web, str, str), Wanted.of(["packages"]))
        relock.write(root, found)
        text = (root / "stages/pipeline.yml").read_text()
        return text, [str(note) for note in found.notes if "linux" in note.what]

    return find


class Pages:
    def __init__(self, pages):
        self.read = lambda url, **_: Page(pages[url])


class Page:
    def __init__(self, body):
        self.body, self.headers = body, {}


def _judged(*rows):
    """Return files of a project with a driver in it and a table about it."""
    options = "greeting_text: {type: str}\n      greeting_flavour: {type: str}"
    return {
        "stages/compatibility.yml": TABLE + "".join(rows),
        "stages/base/stage.yml": (
            "roles: [kernel_pin, greeting]\n"
            "variables: {greeting_text: 550.163.01-2, greeting_flavour: proprietary}\n"
        ),
        "ansible/roles/greeting/meta/argument_specs.yml": ("greeting_text: {type: str}", options),
    }


def test_a_pin_takes_the_newest_kernel_that_compiles_in_both_flavours(lock):
    rows = [ROW % f"6.12.119+deb13{end}-amd64" for end in ("-cloud", "")]
    text, notes = lock(*rows)
    assert notes == []
    assert text == PIPELINE.replace("6.12.117", "6.12.119")


def test_a_pin_stays_where_one_flavour_was_not_tried(lock):
    text, notes = lock(ROW % "6.12.119+deb13-cloud-amd64")
    assert text == PIPELINE
    (note,) = notes
    assert note == (
        "linux-image-6.12.119+deb13-amd64=6.12.119-1: held back: nobody has seen the proprietary "
        "module of 550.163.01 compile for 6.12.119+deb13-amd64 yet [kernel-module]"
    )


def test_without_a_table_a_newer_kernel_is_told_and_changed_by_hand(lock):
    text, (note,) = lock()
    assert text == PIPELINE
    assert note == (
        "linux-image-6.12.117+deb13-cloud-amd64: "
        "linux-image-6.12.119+deb13-cloud-amd64=6.12.119-1 is there; "
        "a kernel is changed by hand, with what is built for it"
    )
