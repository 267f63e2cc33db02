"""The points of hygiene, on trees that are clean and on trees that something was left in."""

from pathlib import Path

import pytest

# ruff: noqa: S108 - paths in an image
from builder.release import hygiene
from builder.release.hygiene import POINTS, Tree, hostnames, results_of
from builder.release.inspection import result

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n"
TOKEN = "hf_" + 34 * "0"
LEFTOVERS = Path(__file__).parents[2] / "stages/final/checks/leftovers.py"
CLEAN = {
    "/etc/machine-id": "",
    "/etc/hostname": "localhost\n",
    "/etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "/etc/shadow": "root:*:19000:0:99999:7:::\nsshd:!*:19000::::::\n",
    "/etc/fstab": "# swap is for others\nLABEL=vaultbuild-root / ext4 defaults 0 1\n",
    "/etc/apt/sources.list": "deb http://mirror.example/debian trixie main\n",
    "/etc/ssh/sshd_config": "PermitRootLogin prohibit-password\n",
    "/root/.profile": "# nothing\n",
    "/var/cache/apt/archives/lock": "",
    "/var/lib/apt/lists/lock": "",
    "/var/lib/systemd/deb-systemd-helper-enabled/ssh.service.dsh-also": "x",
}
# Point: files that were left, each of which must be found by that point alone.
LEFT = {
    "hygiene::no SSH host key": {"/etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 A"},
    "hygiene::no machine-id": {
        "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "/var/lib/dbus/machine-id": "0123456789abcdef0123456789abcdef\n",
    },
    "hygiene::nobody's keys": {
        "/root/.ssh/authorized_keys": "ssh-ed25519 A",
        "/home/me/.ssh/known_hosts": "x",
    },
    "hygiene::no private key": {
        "/etc/ssl/site.key": KEY,
        "/home/me/id": KEY,
        "/efi/efi/debian/mok.key": KEY,
        "/opt/vaultbuild/venvs/default/lib/x.pem": KEY,
        "/srv/key": KEY,
        "/usr/local/etc/site.key": KEY,
        "/var/lib/dkms/signing/x.key": KEY,
    },
    "hygiene::no token": {
        "/etc/hub.conf": f"token = {TOKEN}\n",
        "/root/.profile": f"export HF_TOKEN={TOKEN}\n",
        "/home/me/notes": TOKEN,
        "/srv/models/.env": TOKEN,
        "/usr/local/bin/fetch": TOKEN,
        "/efi/loader/entries/x.conf": f"options token={TOKEN}\n",
    },
    "hygiene::no password": {
        "/etc/shadow": "root:$y$j9T$salt$hash:19000:0:99999:7:::\n",
    },
    "hygiene::no file of credentials": {
        "/root/.netrc": "machine x",
        "/root/.aws/credentials": "x",
        "/etc/apt/auth.conf.d/site.conf": "machine x",
        "/etc/credstore/x": "x",
        "/etc/credstore.encrypted/x": "x",
        "/root/.vault-token": "x",
        "/root/hub/huggingface/token": "x",
        "/var/lib/dkms/mok.key": "x",
        "/var/lib/shim-signed/mok/MOK.priv": "x",
        "/efi/loader/credentials/x.cred": "x",
        "/efi/efi/linux/x.efi.extra.d/x.cred": "x",
    },
    "hygiene::no memory of cloud-init": {
        "/var/lib/cloud/instances/i/user-data.txt": "x",
        "/etc/ssh/sshd_config.d/50-cloud-init.conf": "x",
        "/etc/cloud/cloud-init.disabled": "",
    },
    "hygiene::no memory of a network": {
        "/etc/udev/rules.d/70-persistent-net.rules": "x",
        "/var/lib/dhcp/dhclient.leases": "lease",
        "/var/lib/NetworkManager/secret_key": "x",
    },
    "hygiene::no name of a machine": {
        "/etc/hostname": "ci-runner-7\n",
        "/etc/hosts": "127.0.1.1 ci-runner-7\n",
    },
    "hygiene::no proxy and no odd source": {
        "/etc/apt/apt.conf.d/99mmdebstrap": 'Acquire::http::Proxy "http://127.0.0.1:3142";',
        "/etc/environment": "https_proxy=http://proxy.example:3128\n",
        "/root/.gitconfig": "[http]\n\tproxy = http://proxy.example\n",
        "/etc/pip.conf": "[global]\nindex-url = http://127.0.0.1/x\n",
        "/etc/apt/sources.list": "deb [trusted=yes] http://mirror.example/debian trixie main\n",
        "/etc/apt/sources.list.d/x.sources": "URIs: http://me:word@mirror.example/debian\n",
    },
    "hygiene::no lists and no packages": {
        "/var/lib/apt/lists/x_Packages": "Package: x",
        "/var/cache/apt/archives/x.deb": "x",
        "/var/cache/apt/pkgcache.bin": "x",
    },
    "hygiene::no log": {
        "/var/log/wtmp": "x",
        "/var/log/apt/history.log": "x",
        "/var/log/journal/0123/system.journal": "x",
    },
    "hygiene::no history": {"/root/.bash_history": "ls", "/root/.cache/pip/x": "x"},
    "hygiene::nothing temporary, no dump": {
        "/tmp/x": "x",
        "/tmp/.x/y": "x",
        "/var/tmp/systemd-private-1/tmp/x": "x",
        "/var/crash/x": "x",
        "/var/lib/systemd/coredump/core.x": "x",
    },
    "hygiene::nothing in spools": {"/var/mail/root": "x", "/var/spool/cron/crontabs/root": "x"},
    "hygiene::no backup": {
        "/etc/passwd-": "x",
        "/etc/ssh/sshd_config.dpkg-old": "x",
        "/etc/hosts~": "x",
        "/var/backups/dpkg.status.0": "x",
    },
    "hygiene::no random seed": {
        "/var/lib/systemd/random-seed": "x",
        "/boot/efi/loader/random-seed": "x",
        "/efi/loader/random-seed": "x",
    },
    "hygiene::no membership": {"/etc/krb5.keytab": "x", "/var/lib/sss/db/cache.ldb": "x"},
    "hygiene::no swap": {"/etc/fstab": "/swapfile none swap sw 0 0\n"},
    "hygiene::no memory of devices": {
        "/etc/blkid.tab": "x",
        "/etc/lvm/devices/system.devices": "x",
        "/etc/nvme/hostid": "x",
    },
}
CASES = [
    pytest.param(point, name, text, id=f"{point.partition('::')[2]}: {name}")
    for point, files in LEFT.items()
    for name, text in files.items()
]


@pytest.fixture
def tree(tmp_path):
    """Make a tree that is clean but for ``files``."""

    def make(files=(), given=frozenset()) -> Tree:
        for name, text in {**CLEAN, **dict(files)}.items():
            path = tmp_path / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
        return Tree(tmp_path, given)

    return make


def failed(tree) -> dict[str, str]:
    return {one.name: one.message for one in results_of(tree) if one.outcome == "failed"}


def test_a_clean_tree_passes_every_point(tree):
    said = list(results_of(tree()))
    assert [one.name for one in said] == list(POINTS)
    assert [one for one in said if one.outcome != "passed"] == []


def test_every_point_has_a_case():
    assert LEFT.keys() == POINTS.keys()


@pytest.mark.parametrize(("point", "name", "text"), CASES)
def test_what_was_left_is_found_by_its_point_alone(tree, point, name, text):
    assert failed(tree({name: text})).keys() == {point}


def test_empty_passwords_are_passwords(tree):
    found = failed(tree({"/etc/shadow": "root::19000:0:99999:7:::\n"}))
    assert found == {"hygiene::no password": "E root has a password"}


def test_links_are_not_followed(tree, tmp_path):
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "x.key").write_text(KEY)
    made = tree()
    (tmp_path / "etc/ssl").symlink_to(outside)
    (tmp_path / "var/log").symlink_to(outside)
    (tmp_path / "var/crash").symlink_to(outside)
    assert failed(made) == {}


def test_many_findings_are_counted(tree):
    files = {f"/var/log/{number}": "x" for number in range(9)}
    assert failed(tree(files))["hygiene::no log"].endswith("; and 4 more")


def test_a_result_says_why():
    assert result("a", "").outcome == "passed"
    assert result("a", "b\nc").message == "E b\nE c"


def test_a_name_that_the_pipeline_gives_is_no_build_hosts(tree):
    given = hostnames({"base_system": {"base_system_hostname": "gpu-7.example.com"}})
    named = {
        "/etc/hostname": "gpu-7.example.com\n",
        "/etc/hosts": "127.0.0.1 localhost gpu-7.example.com\n127.0.1.1 ci-runner-7\n",
    }
    assert failed(tree(named, given)) == {"hygiene::no name of a machine": "E ci-runner-7"}


def test_names_of_machines_are_of_variables_that_are_called_so():
    uses = {
        "base_system": {"base_system_hostname": "", "base_system_locale": "C.UTF-8"},
        "site": {"site_hostname": "gpu", "hostname": "hgx", "site_hostnames_url": "x"},
    }
    assert hostnames(uses) == {"gpu", "hgx"}


@pytest.mark.parametrize(
    "name",
    ["KEYS_IN", "PRIVATE_KEY", "PROXIES_IN", "PROXY", "SECRETS", "TOKEN", "TOKENS_IN"],
)
def test_the_disk_is_asked_what_the_machine_is_asked(name):
    assert getattr(hygiene, name) == asked()[name]


def asked() -> dict:
    """What the program that is sent to a machine looks for."""
    text, names = LEFTOVERS.read_text(), {}
    exec(text[: text.index("\nSEARCHED = ")], names)  # noqa: S102 - ours, without what it asks
    return names


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        ("KEY", KEY),
        ("KEY", "x\n-----BEGIN PRIVATE KEY-----\n"),
        ("PROXY", 'Acquire::HTTP::Proxy "http://127.0.0.1:3142";'),
        ("PROXY", "export HTTPS_PROXY=http://127.0.0.1"),
        ("PROXY", "proxy = http://127.0.0.1"),
        ("PROXY", "[global]\nindex-url = http://127.0.0.1"),
        ("PROXY", "export PIP_INDEX_URL=http://127.0.0.1"),
        ("PROXY", "UV_EXTRA_INDEX_URL=http://127.0.0.1"),
        ("PROXY", "PIP_TRUSTED_HOST=127.0.0.1"),
        ("PROXY", "Trusted-Host = 127.0.0.1"),
        ("PROXY", "trusted_host: 127.0.0.1"),
        ("TOKEN", f"token={TOKEN}"),
        ("TOKEN", "AKIA" + 16 * "0"),
        *(("TOKEN", f"gh{who}_" + 30 * "0") for who in "oprsu"),
        ("TOKEN", "glpat-" + 20 * "0"),
        ("TOKEN", "pypi-" + 40 * "0"),
        *(("TOKEN", f"xox{what}-" + 20 * "0") for what in "abp"),
    ],
)
def test_the_program_finds_what_the_expression_says(tmp_path, kind, left):
    # It looks for a word of each before the expression is tried.
    file = tmp_path / "etc/left"
    file.parent.mkdir()
    file.write_text(left)
    assert looked_for(kind, tmp_path) == [str(file)]


@pytest.mark.parametrize("kind", ["KEY", "PROXY", "TOKEN"])
def test_words_alone_are_nothing_that_was_left(tmp_path, kind):
    (tmp_path / "words").write_text("behind a proxy, hf_ and AKIA: no PRIVATE KEY----- in there")
    assert looked_for(kind, tmp_path) == []


def looked_for(kind: str, folder: Path) -> list[str]:
    """Where the program finds keys, proxies or tokens."""
    program = asked()
    pattern = program["PRIVATE_KEY" if kind == "KEY" else kind]
    return program["containing"](pattern, program[f"{kind}_HAS"], folder)
