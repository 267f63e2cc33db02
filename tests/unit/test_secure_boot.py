"""Modules are signed with a key that the guest never sees, as the kernel wants signatures."""

from __future__ import annotations

import ast
import json
import lzma
import runpy
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

FILES = Path(__file__).parents[2] / "ansible/roles/secure_boot/files"
PROGRAM = Path(__file__).parents[2] / "stages/drivers/checks/machine.py"
MODULE = b"\x7fELF a module" * 1000
MAGIC = b"~Module signature appended~\n"


def make_key(kind="rsa"):
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def certify(key, serial=0x80FF):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example modules")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), serial)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    builder = builder.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    certificate = builder.sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.DER)


def pem(key, password=None):
    secret = serialization.BestAvailableEncryption(password) if password else None
    form = serialization.PrivateFormat.PKCS8
    encryption = secret or serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


@pytest.fixture(scope="module")
def key():
    return make_key()


@pytest.fixture
def desk(tmp_path, key):
    """A folder with the key, its certificate and two modules."""
    (tmp_path / "key.pem").write_bytes(pem(key))
    (tmp_path / "key.pem").chmod(0o600)
    (tmp_path / "modules.der").write_bytes(certify(key))
    (tmp_path / "modules").mkdir()
    folder = tmp_path / "modules/6.12/updates/dkms"
    folder.mkdir(parents=True)
    (folder / "plain.ko").write_bytes(MODULE)
    (folder / "packed.ko.xz").write_bytes(lzma.compress(MODULE + b"other"))
    return tmp_path


def run(program, *arguments, stdin="", status=0):
    argv = [sys.executable, str(FILES / program), *map(str, arguments)]
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    return done


def sign_all(desk):
    """Everything that the role does; return what changed."""
    digests = run("modules.py", "digests", desk / "modules").stdout
    said = run("sign.py", desk / "key.pem", desk / "modules.der", stdin=digests).stdout
    signatures = json.dumps(json.loads(said)["signatures"])
    return run("modules.py", "append", signatures).stdout.splitlines()


def contents(desk):
    folder = desk / "modules/6.12/updates/dkms"
    plain, packed = folder / "plain.ko", folder / "packed.ko.xz"
    return {"plain": plain.read_bytes(), "packed": lzma.decompress(packed.read_bytes())}


def split(module):
    """The module, and the message behind it."""
    assert module.endswith(MAGIC)
    trailer = module[: -len(MAGIC)][-12:]
    # Neither algorithm nor hash nor names: the message says all of that. 2 is PKCS #7.
    assert trailer[:8] == bytes([0, 0, 2, 0, 0, 0, 0, 0])
    end = len(module) - len(MAGIC) - 12
    start = end - int.from_bytes(trailer[8:], "big")
    return module[:start], module[start:end]


def test_openssl_finds_the_signatures_right(desk, require_program):
    assert len(sign_all(desk)) == 2
    for name, whole in contents(desk).items():
        module, message = split(whole)
        assert module == MODULE + (b"other" if name == "packed" else b"")
        (desk / "content").write_bytes(module)
        (desk / "message").write_bytes(message)
        verified = subprocess.run(
            [
                require_program("openssl"), "cms", "-verify", "-binary", "-noverify",
                "-inform", "der", "-in", desk / "message", "-content", desk / "content",
                "-nointern", "-certfile", pem_of(desk), "-out", "/dev/null",
            ],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert verified.returncode == 0, verified.stderr


def pem_of(desk):
    certificate = x509.load_der_x509_certificate((desk / "modules.der").read_bytes())
    path = desk / "modules.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_second_run_changes_nothing(desk):
    sign_all(desk)
    before = contents(desk)
    assert sign_all(desk) == []
    assert contents(desk) == before


def test_another_signature_is_replaced(desk):
    sign_all(desk)
    other = make_key()
    (desk / "key.pem").write_bytes(pem(other))
    (desk / "modules.der").write_bytes(certify(other))
    assert len(sign_all(desk)) == 2
    assert split(contents(desk)["plain"])[0] == MODULE


def test_a_module_of_dkms_is_signed_in_both_places(desk):
    name = desk / "modules/6.12/updates/dkms/plain.ko"
    twins = runpy.run_path(str(FILES / "modules.py"))["twins"]
    tree = desk / "dkms/nvidia/550.163.01"
    for kernel in ("6.12", "6.1"):
        (tree / kernel / "x86_64/module").mkdir(parents=True)
        (tree / kernel / "x86_64/module/plain.ko").touch()
    assert list(twins(name, desk / "dkms")) == [name, tree / "6.12/x86_64/module/plain.ko"]


def checked(folder):
    """What the checks of the drivers stage make of a folder of DKMS."""
    tree = ast.parse(PROGRAM.read_text())
    tree.body.pop()  # It asks everything, and prints that.
    names: dict = {}
    exec(compile(tree, str(PROGRAM), "exec"), names)  # noqa: S102 - ours, without its last line
    return {name: names["compared"](folder)[name] for name in ("changed", "signed")}


@pytest.fixture
def built(desk, require_program):
    """DKMS' folder as a build leaves it: modules, and the sums of their files."""
    folder = desk / "modules/6.12/updates"
    dkms = folder / "dkms"
    packing = [require_program("xz"), "--check=crc32", "--lzma2=dict=1MiB", "--force"]
    (dkms / "packed.ko.xz").unlink()
    (dkms / "packed.ko").write_bytes(bytes(range(256)) * 20_000)
    subprocess.run([*packing, dkms / "packed.ko"], check=True)
    (folder / "module").symlink_to("dkms")  # as DKMS calls it
    command = "sha256sum module/* > SHA256SUMS"  # as the role nvidia_driver has it
    subprocess.run(["/bin/sh", "-c", command], cwd=folder, check=True)
    return folder


def test_what_was_built_is_known_by_its_sums(built):
    assert checked(built) == {"changed": [], "signed": []}


def test_a_signature_is_no_change_of_what_was_built(built, desk):
    assert len(sign_all(desk)) == 2
    signed = ["module/packed.ko.xz", "module/plain.ko"]
    assert checked(built) == {"changed": [], "signed": signed}


@pytest.mark.parametrize("name", ["packed.ko.xz", "plain.ko"])
def test_another_module_is_one_although_it_is_signed(built, desk, name):
    other = MODULE + b"changed"
    (built / "module" / name).write_bytes(lzma.compress(other) if "xz" in name else other)
    sign_all(desk)
    assert checked(built)["changed"] == [f"module/{name}"]


@pytest.mark.parametrize(
    ("spoil", "changed"),
    [
        pytest.param(lambda folder: (folder / "module/plain.ko").unlink(), ["plain.ko"], id="gone"),
        pytest.param(lambda folder: (folder / "module/more.ko").touch(), ["more.ko"], id="more"),
        pytest.param(
            lambda folder: (folder / "SHA256SUMS").write_text(""),
            ["packed.ko.xz", "plain.ko"],
            id="no sums",
        ),
    ],
)
def test_files_and_sums_belong_together(built, spoil, changed):
    spoil(built)
    assert checked(built) == {"changed": [f"module/{name}" for name in changed], "signed": []}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        pytest.param(lambda path: path.chmod(0o640), "may be read by others", id="readable"),
        pytest.param(lambda path: path.unlink(), "No such file", id="missing"),
        pytest.param(lambda path: path.write_text("swordfish"), "no RSA key", id="no key"),
        pytest.param(
            lambda path: path.write_bytes(pem(make_key("ec"))), "no RSA key", id="not RSA"
        ),
        pytest.param(
            lambda path: path.write_bytes(pem(make_key(), b"swordfish")),
            "no RSA key",
            id="password",
        ),
        pytest.param(
            lambda path: path.write_bytes(pem(make_key())), "not the certificate of", id="another"
        ),
    ],
)
def test_a_key_that_does_not_fit_is_refused_and_not_told(desk, spoil, said):
    spoil(desk / "key.pem")
    done = run("sign.py", desk / "key.pem", desk / "modules.der", stdin="{}", status=1)
    assert said in done.stderr
    assert "swordfish" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_of_the_key_is_printed(desk):
    digests = run("modules.py", "digests", desk / "modules").stdout
    done = run("sign.py", desk / "key.pem", desk / "modules.der", stdin=digests)
    secret = "".join((desk / "key.pem").read_text().splitlines()[1:-1])
    told = done.stdout + done.stderr
    assert not [at for at in range(0, len(secret) - 24, 8) if secret[at : at + 24] in told]
