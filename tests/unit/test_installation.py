"""What an installer is told, and what it is heard to say."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from builder.digest import StatCache
from builder.errors import HostError
from builder.inputs import Template, Toolset, lineage_inputs, source_document
from builder.installation import _follow, last_line
from builder.pipeline import CLOUD_IMAGE_VERSION, Source, load_pipeline
from builder.reasons import _source_differences
from builder.sources import iso

REFERENCE = Path(__file__).parents[1] / "e2e/project/stages/base/preseed.cfg"
PROXY = "http://10.0.2.100:3142"


# --- the key --------------------------------------------------------------------------------------

ISO = {
    "stages/base/preseed.cfg": "d-i clock-setup/utc boolean true\n",
    "stages/pipeline.yml": f"""\
        schema: 1
        name: tiny
        version: "1.0.0"
        variant: one
        stages: [base, final]
        variants:
          one:
            source:
              iso:
                url: images/one.iso
                sha256: "{"0" * 64}"
                installer: preseed
                answers: preseed.cfg
                kernel: /linux
                initrd: /initrd.gz
                cmdline: quiet
        """,
}


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("images/one.iso", "http://elsewhere.example/two.iso", True),
        ("cmdline: quiet", "cmdline: quiet\n        mirror: http://a.example/debian", True),
        ("cmdline: quiet", "cmdline: quiet\n        timeout: 6h", True),
        ("quiet", "priority=low", False),
        ("/linux", "/install.amd/vmlinuz", False),
        ("/initrd.gz", "/install.amd/initrd.gz", False),
        ("0" * 64, "1" * 64, False),
        ("preseed\n", "autoinstall\n", False),
    ],
)
def test_what_an_installation_depends_on(project, old, new, same):
    first = key_of(project(ISO))
    assert (key_of(project({"stages/pipeline.yml": (old, new)})) == first) is same


def test_an_installation_depends_on_its_answers_and_its_template(project):
    root = project(ISO)
    first = key_of(root)
    assert key_of(root, template="another") != first
    project({"stages/base/preseed.cfg": ("true", "false")})
    assert key_of(root) != first


def test_the_engine_is_not_in_the_key_of_what_is_installed(project):
    root = project(ISO)
    assert key_of(root, engine="qemu") == key_of(root, engine="nspawn")


def test_what_enlarges_a_cloud_image_is_in_its_key_and_what_bootstraps_is_not(project):
    settings = {"url": "a.qcow2", "sha256": "0" * 64}
    pipeline = replace(load_pipeline(project({})), source=Source("cloud_image", settings, {}))
    cache = StatCache(pipeline.project, pipeline.project / "cache/var/index/files")
    for bootstrap_version in (1, 2):
        tools = Toolset("nspawn", {}, bootstrap_version, lambda stage: Template(stage.name))
        document = source_document(pipeline, tools=tools, cache=cache)
        assert document["program"] == CLOUD_IMAGE_VERSION


def test_a_changed_template_is_a_reason():
    (reason,) = _source_differences({"template": "a"}, {"template": "b"})
    assert (reason.kind, reason.what) == ("template", "packer/iso.pkr.hcl.j2")


def key_of(root, *, template="one", engine="nspawn"):
    """The key of what is installed, before any stage."""
    tools = Toolset(
        engine, {"packer": "1"}, 1, lambda stage: Template(stage.name), lambda: template
    )
    cache = StatCache(root, root / "cache/var/index/files")
    return lineage_inputs(load_pipeline(root), "base", tools=tools, cache=cache)[0].keys[0]


# --- the answers ----------------------------------------------------------------------------------


def test_a_place_fills_in_the_answers():
    answers = (
        "proxy {apt_proxy}\nfrom {mirror_host} at {mirror_folder}: {mirror}\nrecipe $primary{ }\n"
    )
    told = iso.filled(answers, apt_proxy=PROXY, mirror="http://a.example:80/pub/debian/")
    assert told == (
        f"proxy {PROXY}\nfrom a.example:80 at /pub/debian: http://a.example:80/pub/debian\n"
        "recipe $primary{ }\n"
    )


def test_without_a_cache_there_is_no_proxy():
    assert iso.filled("proxy {apt_proxy}.", apt_proxy=None, mirror=None) == "proxy ."


def test_without_a_mirror_it_is_the_hosts_own(tmp_path, monkeypatch):
    program = tmp_path / "apt-get"
    codename = "$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)"
    program.write_text(f'#!/bin/sh\necho "http://b.example/debian {codename}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert iso.filled("{mirror_host}", apt_proxy=None, mirror=None) == "b.example"
    program.write_text("#!/bin/sh\n")
    assert iso.filled("no mirror", apt_proxy=None, mirror=None) == "no mirror", "and nobody asks"
    with pytest.raises(HostError, match="names no archive"):
        iso.filled("{mirror}", apt_proxy=None, mirror=None)


def test_the_reference_answers_leave_nothing_of_the_place_open():
    told = iso.filled(REFERENCE.read_text(), apt_proxy=PROXY, mirror="http://a.example/debian")
    lines = dict(
        line.rsplit(" ", 1) for line in told.splitlines() if line.startswith("d-i mirror/")
    )
    assert lines == {
        "d-i mirror/country string": "manual",
        "d-i mirror/protocol string": "http",
        "d-i mirror/http/hostname string": "a.example",
        "d-i mirror/http/directory string": "/debian",
        "d-i mirror/http/proxy string": PROXY,
        "d-i mirror/suite string": "trixie",
    }
    assert "_proxy}" not in told
    assert "mirror_" not in told


def test_the_reference_answers_remove_the_proxy_and_switch_off():
    answers = " ".join(REFERENCE.read_text().replace("\\\n", " ").split())
    assert "preseed/late_command string rm -f /target/etc/apt/apt.conf" in answers
    assert "debian-installer/exit/poweroff boolean true" in answers


# --- the first file system ------------------------------------------------------------------------


def entries(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a "newc" archive as the kernel does: every part begins at a multiple of four."""
    found, at = {}, 0
    while True:
        assert archive[at : at + 6] == b"070701", at
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        at += (110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[at : at + size])
        at += (size + 3) // 4 * 4


def test_an_archive_has_its_files():
    archive = iso.archive({"preseed.cfg": b"12345", "other": b"1234"})
    assert entries(archive) == {"preseed.cfg": (0o100644, b"12345"), "other": (0o100644, b"1234")}
    assert len(archive) % 4 == 0


@pytest.mark.parametrize("size", [40, 41, 43])
def test_the_answers_come_after_what_is_there(size, tmp_path):
    initrd = tmp_path / "initrd"
    initrd.write_bytes(b"\x1f" * size)
    iso.add_preseed(initrd, "answers\n")
    content = initrd.read_bytes()
    assert content[:size] == b"\x1f" * size
    begin = content.index(b"070701")
    assert begin % 4 == 0
    assert content[size:begin] == bytes(begin - size)
    assert entries(content[begin:]) == {"preseed.cfg": (0o100644, b"answers\n")}


# --- the console ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", ""),
        ("one\r\ntwo\r\n", "two"),
        ("Installing ...  10%\r...  20%\r", "...  20%"),
        ("\x1b[1mbold\x1b[0m\n\n  \n", "bold"),
        ("fine\n\x07\x01\n", "fine"),
        (f"{'a' * 200}\n", "a" * 100),
    ],
)
def test_the_last_line_of_a_console(said, line, tmp_path):
    (tmp_path / "console.log").write_text(said)
    assert last_line(tmp_path / "console.log") == line


def test_a_console_that_is_not_there_yet(tmp_path):
    assert last_line(tmp_path / "console.log") == ""


def test_what_an_installer_says_is_told_when_it_changes(tmp_path):
    console, told = tmp_path / "console.log", []

    class Stop(threading.Event):
        """Ends after the third look; before each of them the installer said something."""

        says = iter(["one\n", "one\n", "two\n"])

        def wait(self, timeout=None):
            if (text := next(self.says, None)) is None:
                return True
            console.write_text(text)
            return False

    _follow(console, Stop(), told.append)
    assert told == ["installing: one", "installing: two"]
