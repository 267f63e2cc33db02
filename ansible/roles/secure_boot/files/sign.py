"""Sign SHA-256 digests of kernel modules, as the kernel wants signatures; runs on the build host.

    sign.py KEY CERTIFICATE      on stdin: {"path": "digest in hexadecimal"} as JSON

Prints {"signer", "signatures": {"path": "base64"}} as JSON. The key is read here, and nothing of it
is printed. RSA as in PKCS #1 1.5 has no chance in it: the same module and key give the same bytes.
"""
# ruff: noqa: INP001, T201 - a program that a role starts, not a module

from __future__ import annotations

import base64
import json
import stat
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils
from cryptography.x509.oid import NameOID

_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_DATA = bytes.fromhex("06092a864886f70d010701")
_SHA256 = bytes.fromhex("0609608648016503040201")
_RSA = bytes.fromhex("06092a864886f70d010101")
_NULL = b"\x05\0"
_SEQUENCE, _SET, _INTEGER, _OCTETS, _CONTENT = 0x30, 0x31, 0x02, 0x04, 0xA0


def der(tag: int, *parts: bytes) -> bytes:
    """Return a value of ASN.1 in the one way that DER allows."""
    body = b"".join(parts)
    if len(body) < 0x80:  # noqa: PLR2004 - what fits the short form of a length
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body


def number(value: int) -> bytes:
    """Return a positive number; a leading zero keeps it from being negative."""
    return der(_INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def message(signature: bytes, certificate: x509.Certificate) -> bytes:
    """Return a PKCS #7 message with one signature, and with neither content nor certificates."""
    algorithm = der(_SEQUENCE, _SHA256, _NULL)
    signer = der(
        _SEQUENCE,
        number(1),
        der(_SEQUENCE, certificate.issuer.public_bytes(), number(certificate.serial_number)),
        algorithm,
        der(_SEQUENCE, _RSA, _NULL),
        der(_OCTETS, signature),
    )
    signed = der(
        _SEQUENCE,
        number(1),
        der(_SET, algorithm),
        der(_SEQUENCE, _DATA),
        der(_SET, signer),
    )
    return der(_SEQUENCE, _SIGNED_DATA, der(_CONTENT, signed))


def read_key(path: Path) -> rsa.RSAPrivateKey:
    """Return the key; refuse one that others may read, or of another kind."""
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        sys.exit(f"{path} may be read by others: chmod 600 {path}")
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, rsa.RSAPrivateKey):
        sys.exit(f"{path} is no RSA key")
    return key


def main(key_path: Path, certificate_path: Path) -> None:
    """Sign what stdin names."""
    try:
        key = read_key(key_path)
    except (OSError, ValueError, TypeError) as error:
        # Of a file that is no key, not even what it says may be told.
        reason = (
            error.strerror if isinstance(error, OSError) else "is no RSA key without a password"
        )
        sys.exit(f"{key_path}: {reason}")
    certificate = x509.load_der_x509_certificate(certificate_path.read_bytes())
    if certificate.public_key() != key.public_key():
        sys.exit(f"{certificate_path.name} is not the certificate of {key_path}")
    algorithm = utils.Prehashed(hashes.SHA256())
    signatures = {
        path: message(key.sign(bytes.fromhex(digest), padding.PKCS1v15(), algorithm), certificate)
        for path, digest in json.load(sys.stdin).items()
    }
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    said = {
        "signer": str(names[0].value) if names else "",
        "signatures": {name: base64.b64encode(one).decode() for name, one in signatures.items()},
    }
    print(json.dumps(said, sort_keys=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
