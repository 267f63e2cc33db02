"""The key that signs modules: whether it may be used, and goes with its certificate.

A build asks for it after the driver was compiled, and never for how long its certificate is good.
Nothing that stands in the file is told, not even where it is no key.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder import open_pins
from builder.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

    from builder.doctor.finding import Case, Level

_ROLE: Final = "secure_boot"
_TITLE: Final = "key that signs modules"
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_DAYS: Final = 30
_SUBJECT: Final = "-days 3650 -subj '/CN=Modules' -addext extendedKeyUsage=codeSigning"


class _Wrong(Exception):  # noqa: N818 - what is said of a pair, no accident
    """What is wrong with a pair, and what to type."""

    def __init__(self, evidence: str, cure: str, level: Level = "fail") -> None:
        super().__init__(evidence)
        self.evidence, self.cure, self.level = evidence, cure, level


@dataclass(frozen=True, slots=True)
class _Pair:
    """The key and the certificate that one use of the role is given, and how to look again."""

    stage: str
    key: Path
    certificate: Path
    named: Path
    again: str

    def anew(self) -> str:
        """Return what makes both anew."""
        return (
            f"umask 077; openssl req -new -x509 -newkey rsa:3072 -nodes {_SUBJECT} "
            f"-keyout {_typed(self.key)} -outform der -out {_typed(self.named)}"
        )


def keys(case: Case) -> Iterator[Finding]:
    """Say of each use of the role ``secure_boot`` whether modules can be signed."""
    for stage in case.pipeline.stages:
        for use in stage.roles:
            key, named = use.variables.get(f"{_ROLE}_key"), use.paths.get(f"{_ROLE}_certificate")
            # What is left to be filled in is told as such.
            if use.role == _ROLE and named and isinstance(key, str) and not open_pins.is_open(key):
                again = case.pipeline.command("doctor")
                pair = _Pair(stage.name, Path(key), case.pipeline.project / named, named, again)
                yield _judged(f"signing-{stage.name}-{use.name}", pair)


def _judged(id_: str, pair: _Pair) -> Finding:
    try:
        owner = _access(pair)
        key, certificate = _key(pair), _certificate(pair)
        _matching(pair, key, certificate)
        told = (
            f"{pair.key}: RSA of {key.key_size} bits, for {owner} alone; {pair.named} is its "
            f"certificate, {_in_time(pair, certificate)}"
        )
    except _Wrong as wrong:
        breaks = f"{_ROLE} of {pair.stage} would fail, when the driver is compiled"
        evidence = f"{wrong.evidence}; {breaks}" if wrong.level == "fail" else wrong.evidence
        return Finding(id_, _TITLE, wrong.level, evidence, wrong.cure)
    return Finding(id_, _TITLE, "ok", told)


def _access(pair: _Pair) -> str:
    """Return whose key it is; only this user or root may do anything with it."""
    if not pair.key.is_absolute():
        raise _Wrong(f"{pair.key} is no absolute path", f"write the whole path in {_ROLE}_key")
    try:
        found = pair.key.stat()
    except FileNotFoundError as error:
        cure = f"name the file in {_ROLE}_key, or make key and certificate anew: {pair.anew()}"
        raise _Wrong(f"{pair.key} does not exist", cure) from error
    except OSError as error:
        raise _unreadable(pair, pair.key, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise _Wrong(f"{pair.key} is no file", f"name the key's file in {_ROLE}_key")
    mode, owner = stat.S_IMODE(found.st_mode), _name(found.st_uid)
    if mode & _OTHERS:
        evidence = f"{pair.key} has mode {mode:04o}: others than its owner {owner} may use it"
        raise _Wrong(evidence, f"chmod 600 {_typed(pair.key)}")
    if found.st_uid not in {0, os.geteuid()}:
        evidence = f"{pair.key} belongs to {owner}, who can take it away or put another there"
        raise _Wrong(evidence, f"chown root: {_typed(pair.key)}", "warn")
    return owner


def _key(pair: _Pair) -> RSAPrivateKey:
    from cryptography.exceptions import UnsupportedAlgorithm  # late: for those who sign
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pair.key.read_bytes(), password=None)
    except TypeError:
        plain = _typed(pair.key.with_name(f"{pair.key.name}.plain"))
        cure = f"umask 077; openssl pkey -in {_typed(pair.key)} -out {plain}, and name that file"
        raise _Wrong(f"{pair.key} has a password, and nobody is there to type it", cure) from None
    except OSError as error:
        raise _unreadable(pair, pair.key, error) from error
    except (ValueError, UnsupportedAlgorithm):
        # From nothing: what a library says of the file may show what is in it.
        cure = f"name a private key as PEM in {_ROLE}_key, or make one: {pair.anew()}"
        raise _Wrong(f"{pair.key} is no private key as PEM", cure) from None
    if not isinstance(key, RSAPrivateKey):
        cure = f"make key and certificate anew: {pair.anew()}"
        raise _Wrong(f"{pair.key} is no RSA key", cure)
    return key


def _certificate(pair: _Pair) -> Certificate:
    from cryptography import x509  # late, as above

    try:
        return x509.load_der_x509_certificate(pair.certificate.read_bytes())
    except OSError as error:
        raise _unreadable(pair, pair.named, error) from error
    except ValueError:
        name = _typed(pair.named)
        cure = f"if it is PEM: openssl x509 -in {name} -outform der -out {name}"
        raise _Wrong(f"{pair.named} is no certificate as DER", cure) from None


def _matching(pair: _Pair, key: RSAPrivateKey, certificate: Certificate) -> None:
    if certificate.public_key() != key.public_key():
        cure = (
            f"name the key of this certificate in {_ROLE}_key, or make a certificate of this key: "
            f"{_renewed(pair)}"
        )
        raise _Wrong(f"{pair.named} is not the certificate of {pair.key}", cure)


def _in_time(pair: _Pair, certificate: Certificate) -> str:
    """Return until when a certificate is good.

    Kernels do not compare it with the time of a signature that has none, as ours; people do.
    """
    end, now = certificate.not_valid_after_utc, datetime.now(UTC)
    begin, days = certificate.not_valid_before_utc, (end - now).days
    cure = f"{_renewed(pair)}; every machine must enrol the new one (mokutil --import)"
    breaks = "kernels still take what it signed; whoever enrols or audits it need not"
    if now < begin:
        cure = "is the clock of this host right (timedatectl)? else wait, or make it anew"
        raise _Wrong(f"{pair.named} is not good before {begin:%Y-%m-%d}; {breaks}", cure, "warn")
    if end <= now:
        raise _Wrong(f"{pair.named} ended on {end:%Y-%m-%d}; {breaks}", cure, "warn")
    if days < _DAYS:
        evidence = f"{pair.named} ends on {end:%Y-%m-%d}, in {days} days, fewer than {_DAYS}"
        raise _Wrong(f"{evidence}; then {breaks}", cure, "warn")
    return f"good until {end:%Y-%m-%d} (it warns {_DAYS} days before)"


def _renewed(pair: _Pair) -> str:
    """Return what makes a certificate of the same key."""
    key, certificate = _typed(pair.key), _typed(pair.named)
    return f"openssl req -new -x509 -key {key} {_SUBJECT} -outform der -out {certificate}"


def _unreadable(pair: _Pair, path: Path, error: OSError) -> _Wrong:
    cure = f"run it as the user who builds: sudo {pair.again}"
    if not isinstance(error, PermissionError):
        cure = f"is the path right? ls -l {_typed(path)}"
    return _Wrong(f"{path}: {error.strerror}", cure)


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _typed(path: Path) -> str:
    return shlex.quote(str(path))
