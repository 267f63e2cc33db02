"""Templates: values survive HCL, mistakes have a line, and circumstance stays out of keys."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import hcl2
import pytest

from builder import hcl
from builder.errors import ProjectError
from builder.template import (
    NEUTRAL,
    TemplateContext,
    describe,
    describe_installer,
    neutral,
    render,
)

PACKER = Path(__file__).parents[2] / "packer"
HERE = replace(
    NEUTRAL,
    private_key=Path("/run/a key"),
    public_key="ssh-ed25519 AAAA test",
    callback=["python3", "-m", "builder.guest", "/a b/${job}.json", "%{if}"],
    ssh_port=2222,
    cpus=4,
    memory_mib=8192,
    accelerator="tcg",
    parent_disk=Path("/store/parent.qcow2"),
    disk_bytes=8 << 30,
    forwards={3142: "127.0.0.1:41001", 3141: "127.0.0.1:41002"},
)
STAGE = TemplateContext(line="1.6", engine="qemu", stage="base", circumstance=HERE)
ISO = {"sha256": "0" * 64, "installer": "preseed", "cmdline": "priority=critical console=ttyS0"}
INSTALLING = STAGE.installing(ISO)
BUILD = """\
source "null" "base" { communicator = "none" }
build {
  sources = ["source.null.base"]
  provisioner "shell-local" { command = "true" }
%s
}
"""


def shipped(context: TemplateContext, name: str = "stage") -> str:
    return render(PACKER / f"{name}.pkr.hcl.j2", context, search=[PACKER])


def written(folder: Path, text: str, name: str = "own.pkr.hcl.j2") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def refused(call, *arguments, **options) -> str:
    with pytest.raises(ProjectError) as caught:
        call(*arguments, **options)
    return str(caught.value.problems[0])


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (12, "12"),
        (1.5, "1.5"),
        ("plain", '"plain"'),
        (Path("/a b"), '"/a b"'),
        ('"quoted" \\ and\tmore\n', '"\\"quoted\\" \\\\ and\\tmore\\n"'),
        ("bell \x07 delete \x7f", '"bell \\u0007 delete \\u007f"'),
        ("für", '"für"'),
        ("${secret} %{ if }", '"$${secret} %%{ if }"'),
        ("$${twice} 100% $", '"$$${twice} 100% $"'),
        ("{{ .HTTPIP }}", '"{{ .HTTPIP }}"'),
        (["a", 1], '["a", 1]'),
        (("a",), '["a"]'),
        ({"a-b": [True], "c": {}}, '{"a-b" = [true], "c" = {}}'),
    ],
)
def test_values_in_hcl(value, text):
    assert hcl.quote(value) == text


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes"])
def test_values_that_hcl_cannot_say(value, tmp_path):
    template = written(tmp_path, "# one\na = <%= variables.odd | hcl %>\n")
    context = replace(STAGE, variables={"odd": value})
    assert refused(render, template, context).startswith(f"{template}:2: ")


# --- rendering ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<% if engine %>\n", ":1: Unexpected end of template"),
        ("\n\n<%= nothing %>\n", ":3: 'nothing' is undefined (a template is given: line, engine"),
        ("\n<%= circumstance.speed %>", ":2: 'builder.template.Circumstance object' has no attr"),
        ("\n<% include 'gone.j2' %>\n", ": it includes gone.j2, which does not exist"),
    ],
)
def test_mistakes_in_a_template_name_their_line(text, problem, tmp_path):
    template = written(tmp_path, text)
    assert refused(render, template, STAGE).startswith(f"{template}{problem}")


def test_a_mistake_in_a_partial_blames_the_partial(tmp_path):
    partial = written(tmp_path / "shared", "\n<%= nothing %>", "part.j2")
    template = written(tmp_path, "<% include 'part.j2' %>")
    problem = refused(render, template, STAGE, search=[tmp_path / "shared"])
    assert problem.startswith(f"{partial}:2: 'nothing' is undefined")


def test_a_template_that_is_not_there(tmp_path):
    problem = refused(render, tmp_path / "gone.j2", STAGE)
    assert problem == f"{tmp_path / 'gone.j2'}: there is no such template"


def test_a_template_beside_its_partial_and_the_shared_ones(tmp_path):
    written(tmp_path / "shared", "shared", "both.j2")
    written(tmp_path / "shared", " shared", "other.j2")
    written(tmp_path, "own", "both.j2")
    template = written(tmp_path, "<% include 'both.j2' %><% include 'other.j2' %>")
    assert render(template, STAGE, search=[tmp_path / "shared"]) == "own shared"


# --- what the project's own templates say ---------------------------------------------------------


def source(text: str, kind: str) -> dict:
    document = hcl2.loads(text)
    return document["source"][0][f'"{kind}"']['"base"']


def test_the_vm():
    vm = source(shipped(STAGE), "qemu")
    assert vm["iso_url"] == '"/store/parent.qcow2"'
    assert vm["disk_size"] == '"8192M"'
    assert (vm["cpus"], vm["memory"], vm["accelerator"]) == (4, 8192, '"tcg"')
    arguments = {name.strip('"'): value.strip('"') for name, value in vm["qemuargs"]}
    assert arguments["-cpu"] == "max"
    assert arguments["-vnc"] == "none"
    assert arguments["-netdev"] == (
        "user,id=user.0,restrict=on,ipv6=off,hostfwd=tcp:127.0.0.1:{{ .SSHHostPort }}-:22"
        ",guestfwd=tcp:10.0.2.100:3141-cmd:socat - TCP:127.0.0.1:41002"
        ",guestfwd=tcp:10.0.2.100:3142-cmd:socat - TCP:127.0.0.1:41001"
    )
    assert arguments["-smbios"] == (
        "type=11,value=io.systemd.credential.binary:ssh.authorized_keys.root="
        "c3NoLWVkMjU1MTkgQUFBQSB0ZXN0Cg=="
    )


def test_a_vm_leaves_by_the_gateway_alone_also_where_its_network_is_open():
    assert "restrict=on" in shipped(replace(STAGE, network="open"))


def test_the_container():
    container = source(shipped(replace(STAGE, engine="nspawn")), "null")
    assert container["ssh_port"] == 2222
    assert container["ssh_private_key_file"] == '"/run/a key"'


@pytest.mark.parametrize("engine", ["qemu", "nspawn"])
def test_the_callback(engine):
    text = shipped(replace(STAGE, engine=engine))
    assert (
        """command = "python3 -m builder.guest '/a b/$${job}.json' '%%{if}'"""
        """ ${build.Host} ${build.Port}\""""
    ) in text


@pytest.mark.parametrize(
    ("line", "engine", "wanted"),
    [("1.6", "qemu", False), (">=1.7", "qemu", True), (">=1.7", "nspawn", False)],
)
def test_plugins_are_required_where_packer_has_plugins(line, engine, wanted):
    text = shipped(replace(STAGE, line=line, engine=engine))
    assert ("required_plugins" in text) is wanted


def test_a_seed_for_cloud_init():
    here = replace(HERE, seed_files=[Path("/run/user-data"), Path("/run/meta-data")])
    vm = source(shipped(replace(STAGE, seeded=True, user="debian", circumstance=here)), "qemu")
    assert vm["cd_label"] == '"cidata"'
    assert vm["cd_files"] == ['"/run/user-data"', '"/run/meta-data"']
    assert vm["shutdown_command"] == '"sudo systemctl poweroff"'


def test_an_unattended_installation():
    vm = source(shipped(INSTALLING, "iso"), "qemu")
    arguments = {name.strip('"'): value.strip('"') for name, value in vm["qemuargs"]}
    assert vm["iso_url"] == '"/vaultbuild/installer.iso"'
    assert arguments["-kernel"] == "/vaultbuild/kernel"
    assert arguments["-initrd"] == "/vaultbuild/initrd"
    assert arguments["-append"] == "priority=critical console=ttyS0"
    assert "-no-reboot" in arguments, "the kernel of the ISO would begin anew"
    assert vm["communicator"] == '"none"'
    assert not [name for name in vm if name.startswith(("ssh_", "cd_", "boot_command", "http_"))]


def test_an_installer_reaches_the_caches_and_nobody_reaches_it():
    (netdev,) = (
        v for n, v in source(shipped(INSTALLING, "iso"), "qemu")["qemuargs"] if "netdev" in n
    )
    assert netdev.strip('"') == (
        "user,id=user.0,restrict=on,ipv6=off"
        ",guestfwd=tcp:10.0.2.100:3141-cmd:socat - TCP:127.0.0.1:41002"
        ",guestfwd=tcp:10.0.2.100:3142-cmd:socat - TCP:127.0.0.1:41001"
    )


def test_autoinstall_finds_its_answers_on_a_disk():
    here = replace(HERE, seed_files=[Path("/run/user-data"), Path("/run/meta-data")])
    context = replace(STAGE, circumstance=here).installing({**ISO, "installer": "autoinstall"})
    vm = source(shipped(context, "iso"), "qemu")
    assert vm["cd_label"] == '"cidata"'
    assert vm["cd_files"] == ['"/run/user-data"', '"/run/meta-data"']


def test_a_vm_without_the_size_of_its_disk_is_refused():
    with pytest.raises(ValueError, match="size of the disk"):
        shipped(replace(STAGE, circumstance=replace(HERE, disk_bytes=None)))


@pytest.mark.parametrize("line", ["1.6", ">=1.7"])
@pytest.mark.parametrize("engine", ["qemu", "nspawn"])
def test_they_read_back(line, engine):
    context = replace(STAGE, line=line, engine=engine)
    assert hcl.read_back(shipped(context), Path("stage"))["build"]


@pytest.mark.parametrize("line", ["1.6", ">=1.7"])
def test_an_installation_calls_nobody_back(line):
    document = hcl2.loads(shipped(replace(INSTALLING, line=line), "iso"))
    assert document["build"][0]["sources"] == ['"source.qemu.base"']
    assert "provisioner" not in document["build"][0]


# --- keys -----------------------------------------------------------------------------------------


def described(context: TemplateContext, name: str = "stage"):
    return describe(PACKER / f"{name}.pkr.hcl.j2", context, search=[PACKER], base=PACKER.parent)


@pytest.mark.parametrize("engine", ["qemu", "nspawn"])
def test_circumstance_is_not_in_the_key(engine):
    context = replace(STAGE, engine=engine)
    elsewhere = replace(HERE, private_key=Path("/other"), cpus=64, ssh_port=99, accelerator="kvm")
    assert described(context) == described(replace(context, circumstance=elsewhere))
    assert neutral(context).circumstance is NEUTRAL


def test_placeholders_stand_for_every_path():
    for part in fields(NEUTRAL):
        value = getattr(NEUTRAL, part.name)
        if isinstance(value, Path):
            assert value.is_relative_to(hcl.NOWHERE), part.name


@pytest.mark.parametrize(
    "change",
    [{"line": ">=1.7"}, {"engine": "nspawn"}, {"stage": "final"},
     {"user": "debian"}, {"seeded": True}],
)  # fmt: skip
def test_what_the_image_depends_on_is_in_the_key(change):
    assert described(STAGE).digest != described(replace(STAGE, **change)).digest


def test_the_projects_own_templates_name_no_files():
    assert described(STAGE).files == ()


def test_an_installation_depends_on_no_circumstance_and_on_no_line_of_packer():
    same = [
        replace(INSTALLING, circumstance=replace(HERE, cpus=64, forwards={}, accelerator="kvm")),
        replace(INSTALLING, line=">=1.7"),
        replace(STAGE, engine="nspawn", network="open", variables={"a": 1}).installing(ISO),
    ]
    digests = {describe_installer(PACKER, context) for context in same}
    assert digests == {describe_installer(PACKER, INSTALLING)}


@pytest.mark.parametrize("change", [{"cmdline": "quiet"}, {"installer": "autoinstall"}])
def test_an_installation_depends_on_what_it_is_told(change):
    other = describe_installer(PACKER, STAGE.installing({**ISO, **change}))
    assert other != describe_installer(PACKER, INSTALLING)


# --- reading back ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('b = 1\nsource "null" {', 'is no HCL at line 2 of what it renders to: source "null" {'),
        ("a = \n", "is no HCL at line 1 of what it renders to: a ="),
        ("\n\nx: 1\n", "is no HCL at line 3 of what it renders to: x: 1"),
        ("", "has 0 build blocks (a stage is exactly one build)"),
        ((BUILD % "") * 2, "has 2 build blocks (a stage is exactly one build)"),
        ((BUILD % "") + "biuld {}\n", 'unknown block "biuld" (did you mean "build"?)'),
        ((BUILD % "").replace('["source.null.base"]', "[]"),
         "builds 0 sources (a stage is exactly one disk: sources = [ONE])"),
        ((BUILD % "").replace('["source.null.base"]', '["source.null.bass"]'),
         'builds "source.null.bass", which it does not declare (did you mean "source.null.base"?)'),
        ((BUILD % "").replace("shell-local", "shell"),
         'never calls back, so no role would run (include "parts/build.pkr.hcl.j2")'),
    ],
)  # fmt: skip
def test_what_is_no_template_of_a_stage(text, problem):
    assert refused(hcl.read_back, text, Path("own.j2")) == f"own.j2: {problem}"


def test_both_ways_to_name_a_source():
    for name in ("source.null.base", "null.base"):
        assert hcl.read_back((BUILD % "").replace("source.null.base", name), Path("own.j2"))


# --- files that are named -------------------------------------------------------------------------


def named(folder: Path, text: str) -> list[str]:
    document = hcl.read_back(BUILD % text, Path("own.j2"))
    return [path.as_posix() for path in hcl.named_files(document, folder, Path("own.j2"))]


@pytest.fixture
def base(tmp_path):
    for name in ("a.sh", "b.sh", "etc/motd", "etc/deep/issue", "facts.tpl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ('provisioner "shell" { script = "a.sh" }', ["a.sh"]),
        ('provisioner "shell" { scripts = ["b.sh", "${path.root}/a.sh"] }', ["a.sh", "b.sh"]),
        ('post-processor "shell-local" { script = "a.sh" }', ["a.sh"]),
        ('provisioner "file" {\n source = "etc/motd"\n destination = "/etc/motd"\n}', ["etc/motd"]),
        ('provisioner "file" {\n sources = ["etc"]\n destination = "/"\n}',
         ["etc/deep/issue", "etc/motd"]),
        ('provisioner "shell" { inline = [file("a.sh"), "x ${file("b.sh")}"] }', ["a.sh", "b.sh"]),
        ('provisioner "shell" { inline = [templatefile("facts.tpl", {a = 1})] }', ["facts.tpl"]),
        ('provisioner "shell" { script = "" }', []),
        ('provisioner "shell" { inline = ["echo a.sh"] }', []),
        ('provisioner "ansible" { playbook_file = "a.sh" }', ["a.sh"]),
    ],
)  # fmt: skip
def test_files_that_the_hcl_names(text, files, base):
    assert named(base, text) == files


def test_files_that_a_source_names(base):
    text = (BUILD % "").replace(
        'communicator = "none"',
        'cd_files = ["etc/*", "/vaultbuild/seed"]\nhttp_directory = "etc/deep"\n'
        'efi_firmware_code = "/usr/share/code.fd"\nfloppy_files = []\n',
    )
    document = hcl.read_back(text, Path("own.j2"))
    files = hcl.named_files(document, base, Path("own.j2"))
    assert [path.as_posix() for path in files] == ["etc/deep/issue", "etc/motd"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ('"gone.sh"', "there is no file gone.sh"),
        ('"../a.sh"', "../a.sh may not go through .."),
        ('"/etc/passwd"', "/etc/passwd is no file of this project: bring it in"),
        ("local.name", "names a file by an expression, ${local.name}: write the name itself"),
        ('"${local.name}.sh"',
         'names a file by an expression, "${local.name}.sh": write the name itself'),
    ],
)  # fmt: skip
def test_files_that_a_key_cannot_know(name, problem, base):
    text = f'provisioner "shell" {{ script = {name} }}'
    assert refused(named, base, text) == f"own.j2: script: {problem}"
