"""Modules carry signatures of the certificate's key, and the certificate can be enrolled."""

import base64
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils

PROGRAM = Path(__file__).with_name("machine.py").read_text()


@pytest.fixture(scope="module")
def machine(host, expected):
    """What the machine says about its modules."""
    done = host.run("python3 -c %s %s", PROGRAM, json.dumps(expected["secure_boot_folders"]))
    if done.rc:
        pytest.fail(f"the machine gave no answer:\n{done.stderr}", pytrace=False)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def certificate(expected):
    """The project's certificate, which the key belongs to."""
    return x509.load_der_x509_certificate(Path(expected["secure_boot_certificate"]).read_bytes())


def is_signed(one, certificate):
    """Whether a module's signature is right; its kernel would ask the same."""
    key = certificate.public_key()
    signature = base64.b64decode(one["message"])[-(key.key_size // 8) :]
    algorithm = utils.Prehashed(hashes.SHA256())
    try:
        key.verify(signature, bytes.fromhex(one["digest"]), padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        return False
    return True


def test_every_module_is_signed_with_the_key(machine, certificate):
    assert isinstance(machine["modules"], dict), machine["modules"]
    assert machine["modules"]
    wrong = [path for path, one in machine["modules"].items() if not is_signed(one, certificate)]
    assert wrong == []


def test_modinfo_names_the_signer(machine, certificate):
    name = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    assert isinstance(machine["modules"], dict), machine["modules"]
    assert {one["signer"] for one in machine["modules"].values()} == {name}


def test_the_certificate_can_be_enrolled(machine, expected):
    ours = Path(expected["secure_boot_certificate"]).read_bytes()
    assert machine["certificate"] == base64.b64encode(ours).decode()
