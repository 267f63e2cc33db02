"""The checks of the role secure_boot, on answers of sound and of broken machines."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

CHECKS = "ansible/roles/secure_boot/checks/test_secure_boot.py"
ROLE = Path(__file__).parents[2] / "ansible/roles/secure_boot"
MACHINE = "machine.py"
CERTIFICATE = "stages/drivers/modules.der"
MODULE = "/lib/modules/6.12/updates/dkms/nvidia-current.ko.xz"
SECOND = MODULE.replace("current", "current-uvm")


def certify(key):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example modules")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1)
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
    builder = builder.not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def signed(content, key, signer="Example modules"):
    """What the machine says of a module; the signature is at the end of its message."""
    message = b"message" + key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    return {
        "digest": hashlib.sha256(content).hexdigest(),
        "message": base64.b64encode(message).decode(),
        "signer": signer,
    }


OURS, THEIRS = (rsa.generate_private_key(65537, 2048) for _ in range(2))
PROJECT_FILES = {CERTIFICATE: certify(OURS)}
UNSIGNED = {"digest": hashlib.sha256(b"module").hexdigest(), "message": "", "signer": ""}


def answer():
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    given = {"secure_boot_certificate": CERTIFICATE, "secure_boot_key": "/etc/modules.key"}
    machine = {
        "certificate": base64.b64encode(PROJECT_FILES[CERTIFICATE]).decode(),
        "modules": {MODULE: signed(b"module", OURS), SECOND: signed(b"second", OURS)},
    }
    return {"expected": defaults | given, MACHINE: machine}


def told(**machine):
    return {MACHINE: machine}


SIGNED, NAMED = "test_every_module_is_signed_with_the_key", "test_modinfo_names_the_signer"
ENROLLED = "test_the_certificate_can_be_enrolled"
# Case: (what is different,).
SOUND = {"as built": ({},), "one module": (told(modules=(SECOND, None)),)}
# Case: (what is different, checks that fail: those and no other).
BROKEN = {
    "a module is not signed": (told(modules={SECOND: (..., UNSIGNED)}), SIGNED, NAMED),
    "somebody else signed one": (
        told(modules={SECOND: (..., signed(b"second", THEIRS, "Debian"))}),
        SIGNED,
        NAMED,
    ),
    "another key of that name": (told(modules={SECOND: (..., signed(b"second", THEIRS))}), SIGNED),
    "a module changed since": (
        told(modules={MODULE: {"digest": hashlib.sha256(b"other").hexdigest()}}),
        SIGNED,
    ),
    "there are no modules": (told(modules=(..., {})), SIGNED, NAMED),
    "another certificate is there": (
        told(certificate=base64.b64encode(certify(THEIRS)).decode()),
        ENROLLED,
    ),
    "no certificate is there": (told(certificate=""), ENROLLED),
}
