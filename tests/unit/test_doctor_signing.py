"""What doctor says of the key that signs modules: all that a build would find too late."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from builder.doctor import Case, Host, examine
from builder.doctor.signing import keys
from builder.pipeline import load_pipeline

DAY = timedelta(days=1)
SPECS = """\
argument_specs:
  main:
    options:
      secure_boot_certificate: {type: path, required: true}
      secure_boot_key: {type: str, required: true}
"""


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key, password=None):
    secret = serialization.BestAvailableEncryption(password) if password else None
    encryption = secret or serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, encryption)


def certify(key, *, ends=3650 * DAY, began=DAY):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Example modules")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1)
    made = made.not_valid_before(now - began).not_valid_after(now + ends)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.fixture
def pair(tmp_path, key):
    """A key and its certificate, as they should be."""
    (tmp_path / "modules.key").write_bytes(pem(key))
    (tmp_path / "modules.key").chmod(0o600)
    (tmp_path / "modules.der").write_bytes(certify(key))
    return tmp_path / "modules.key", tmp_path / "modules.der"


def looked(path, certificate):
    use = SimpleNamespace(
        role="secure_boot",
        name="secure_boot",
        variables={"secure_boot_key": str(path)},
        paths={"secure_boot_certificate": certificate},
    )
    stage = SimpleNamespace(name="drivers", roles=(use,))
    pipeline = SimpleNamespace(
        project=certificate.parent, stages=(stage,), command="tool {}".format
    )
    (finding,) = keys(Case(pipeline))
    return finding


def test_a_pair_as_it_should_be(pair):
    finding = looked(*pair)
    assert finding.level == "ok"
    assert "RSA of 2048 bits" in finding.evidence
    assert "warns 30 days before" in finding.evidence


def spoil_mode(path, certificate, key):
    path.chmod(0o644)


def spoil_absence(path, certificate, key):
    path.unlink()


def spoil_folder(path, certificate, key):
    path.unlink()
    path.mkdir()


def spoil_password(path, certificate, key):
    path.write_bytes(pem(key, b"geheim"))


def spoil_kind(path, certificate, key):
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1())))


def spoil_text(path, certificate, key):
    path.write_text("geheim")


def spoil_pair(path, certificate, key):
    path.write_bytes(pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))


def spoil_certificate(path, certificate, key):
    form = serialization.Encoding.PEM
    known = x509.load_der_x509_certificate(certificate.read_bytes())
    certificate.write_bytes(known.public_bytes(form))


def spoil_certificates_absence(path, certificate, key):
    certificate.unlink()


@pytest.mark.parametrize(
    ("spoil", "told", "cure"),
    [
        (spoil_mode, "mode 0644: others than its owner", "chmod 600 "),
        (spoil_absence, "does not exist", "openssl req -new -x509 -newkey rsa:3072"),
        (spoil_folder, "is no file", "secure_boot_key"),
        (spoil_password, "has a password", "openssl pkey -in "),
        (spoil_kind, "is no RSA key", "openssl req "),
        (spoil_text, "is no private key as PEM", "openssl req "),
        (spoil_pair, "is not the certificate of", "openssl req -new -x509 -key "),
        (spoil_certificate, "is no certificate as DER", "openssl x509 -in "),
        (spoil_certificates_absence, "No such file", "is the path right?"),
    ],
)
def test_what_a_build_would_stumble_over_fails(spoil, told, cure, pair, key):
    spoil(*pair, key)
    finding = looked(*pair)
    assert finding.level == "fail"
    assert told in finding.evidence
    assert "secure_boot of drivers would fail, when the driver is compiled" in finding.evidence
    assert cure in finding.cure
    assert "geheim" not in f"{finding}", "nothing of the file is told"


def test_a_path_that_hangs_on_where_a_build_runs_fails(pair):
    assert "no absolute path" in looked("modules.key", pair[1]).evidence


@pytest.mark.parametrize(
    ("ends", "level", "told"),
    [
        (-1, "warn", "ended on "),
        (29.5, "warn", "in 29 days, fewer than 30; then kernels still take what it signed"),
        (31, "ok", "good until "),
    ],
)
def test_the_end_of_a_certificate_is_told_thirty_days_before(ends, level, told, pair, key):
    pair[1].write_bytes(certify(key, ends=ends * DAY, began=90 * DAY))
    finding = looked(*pair)
    assert (finding.level, told in finding.evidence) == (level, True)
    assert ("mokutil --import" in finding.cure) == (level == "warn")


def test_a_certificate_of_tomorrow_is_told(pair, key):
    pair[1].write_bytes(certify(key, began=-2 * DAY))
    finding = looked(*pair)
    assert (finding.level, "not good before" in finding.evidence) == ("warn", True)


def test_a_key_of_somebody_else_is_told(pair, require_root):
    require_root()
    os.chown(pair[0], 65534, -1)
    finding = looked(*pair)
    assert (finding.level, "belongs to nobody" in finding.evidence) == ("warn", True)
    assert finding.cure.startswith("chown root: ")


def test_doctor_looks_at_each_use(project, pair):
    path, certificate = pair
    variables = f"{{secure_boot_key: {path}.gone, secure_boot_certificate: modules.der}}"
    root = project(
        {
            "ansible/roles/secure_boot/meta/argument_specs.yml": SPECS,
            "ansible/roles/secure_boot/tasks/main.yml": "[]\n",
            "stages/base/stage.yml": f"roles: [{{role: secure_boot, variables: {variables}}}]\n",
        }
    )
    (root / "stages/base/modules.der").write_bytes(certificate.read_bytes())
    (root / "cache/etc").mkdir(parents=True)
    found = [each for each in examine(load_pipeline(root), Host()) if "signing" in each.id]
    assert [each.level for each in found] == ["fail"]
    assert f"{path}.gone does not exist" in found[0].evidence
    assert "stages/base/modules.der" in found[0].cure
