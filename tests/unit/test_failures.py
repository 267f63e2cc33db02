"""The catalogue of failures: what its rules recognise, what they say, and what is no rule."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from builder.engines.greeting import silent
from builder.errors import Cause, CommandError, ProjectError
from builder.failures import Rule, diagnose, explained, load

RULE = """\
- id: {id}
  pattern: '{pattern}'
  cause: '{cause}'
  cure: '{cure}'
  example: '{example}'
"""
GOOD = {
    "id": "a-rule",
    "pattern": "bad (?P<what>.+)",
    "cause": "{what}",
    "cure": "c",
    "example": "bad x",
}


@pytest.fixture
def catalogue(tmp_path):
    """Load a catalogue of rules, each given by what differs from a good one."""

    def write(*changes: dict[str, str], more: str = "") -> tuple[Rule, ...]:
        path = tmp_path / "failures.yml"
        path.write_text("".join(RULE.format(**{**GOOD, **change}) for change in changes) + more)
        return load(path)

    return write


# --- the rules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", load(), ids=lambda rule: rule.id)
def test_each_example_is_recognised_by_its_own_rule(rule) -> None:
    found = diagnose(rule.example, rule.where)

    assert found is not None
    assert found.rule == rule.id
    assert not re.search(r"[{}]", found.cause + found.cure), "every group is filled in"
    assert found.cause.endswith(".")


@pytest.mark.parametrize("where", ["role", "ssh", "packer", "host", "any"])
@pytest.mark.parametrize(
    "text", ["", "changed: 3", "0 upgraded, 1 newly installed", "Started ssh.service.\nlogin: "]
)
def test_what_nobody_knows_has_no_cause(text, where) -> None:
    assert diagnose(text, where) is None


DKMS = """\
Error! Bad return status for module build on kernel: {}+deb13-cloud-amd64 (x86_64)
Consult /var/lib/dkms/nvidia-current-open/550.163.01/build/make.log for more information.
"""
SKIPPED = """\
Module build for kernel 5.10.0-32-amd64 was skipped since the
kernel headers for this kernel does not seem to be installed.
"""
UNSATISFIED = """\
Unsatisfied dependencies:
 zeek : Depends: libc6 (< 2.38) but 2.42-16 is to be installed
Error: Unable to satisfy dependencies. Reached two conflicting assignments:
"""
EMERGENCY = "[  OK  ] Reached target \x1b[0;1;39memergency.target\x1b[0m - Emergency Mode."


# What other versions of the same programs print, or the same one in another place.
@pytest.mark.parametrize(
    ("where", "text", "rule"),
    [
        ("role", DKMS.format("6.12.117"), "open-module-kernel"),
        ("role", DKMS.format("6.12.94"), "dkms-build"),
        ("role", SKIPPED, "kernel-headers-missing"),
        ("role", UNSATISFIED, "dependencies-unmet"),
        ("role", "E: Failed to fetch http://m/p.deb  Hash Sum mismatch", "mirror-in-sync"),
        ("role", "No package matching 'nosuchpackage' is available", "package-unknown"),
        ("role", "Package 'libxml2' has no installation candidate", "package-unknown"),
        ("role", "CUDA driver version is insufficient for CUDA runtime version", "driver-too-old"),
        ("role", "curl: (6) Could not resolve host: mirror.example", "name-not-resolved"),
        ("role", "OSError: [Errno 28] No space left on device", "guest-disk-full"),
        ("packer", "qemu-img: x: No space left on device", "disk-full"),
        ("host", "E: Version '1.0' for 'hello' was not found", "package-version-gone"),
        ("ssh", "VFS: Unable to mount root fs on unknown-block(0,0)", "root-not-found"),
        ("ssh", EMERGENCY, "emergency-mode"),
        ("ssh", "qemu-system-x86_64: failed to initialize kvm: Permission denied", "kvm-forbidden"),
    ],
)
def test_other_words_for_the_same(where, text, rule) -> None:
    found = diagnose(f"before\n{text}\nafter", where)

    assert found is not None
    assert found.rule == rule


# What apt 2.6 and pip 23 print of a server that resets, hangs, truncates or refuses.
RETRIED = "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by '{}': /six/"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (
            "E: Failed to fetch http://m/a  Connection failed [IP: 192.0.2.1 80]",
            "apt-connection-lost",
        ),
        ("E: Failed to fetch http://m/a  Connection timed out", "apt-connection-lost"),
        (
            "E: Failed to fetch http://m/a  Error reading from server. Remote end",
            "apt-connection-lost",
        ),
        ("E: Failed to fetch http://m/a  503  Service Unavailable", "apt-cache-error"),
        (
            "http://m/a  File has unexpected size (1 != 2). Mirror sync in progress",
            "mirror-in-sync",
        ),
        ("E: Failed to fetch http://m/a  Hash Sum mismatch", "mirror-in-sync"),
        ("Could not connect to m:80 (192.0.2.1), connection timed out", "apt-cache-refused"),
        ("ERROR: HTTP error 429 while getting http://m/a", "too-many-requests"),
        ("Could not handshake: Error in the pull function. [IP: 192.0.2.1 443]", "tls-broken-off"),
        ("net/http: TLS handshake timeout", "tls-broken-off"),
        (
            "reached over ssh: ssh: connect to host h port 22: Connection refused",
            "ssh-not-up",
        ),
        (
            RETRIED.format("ProtocolError('Connection aborted.', ConnectionResetError(104, 'x'))"),
            "pip-connection-lost",
        ),
        (
            "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPConnectionPool(host='h')",
            "pip-connection-lost",
        ),
        (
            "pip._vendor.urllib3.exceptions.ProtocolError: ('Connection broken: Inc",
            "pip-connection-lost",
        ),
        (
            "\u2570\u2500> Download failed because not enough bytes were received (1.0/3.0 MB)",
            "wheel-cut-short",
        ),
        ("ConnectionResetError: [Errno 104] Connection reset by peer", "connection-lost"),
        ("curl: (28) Failed to connect to m port 80: Connection timed out", "connection-lost"),
    ],
)
def test_what_passes_by_itself(text, rule) -> None:
    found = diagnose(f"before\n{text}\nafter", "role")

    assert found is not None
    assert (found.rule, found.passes) == (rule, True)


@pytest.mark.parametrize(
    "text",
    [
        "E: Failed to fetch http://m/pool/foo_1.0_amd64.deb  404  Not Found [IP: 192.0.2.1 80]",
        "E: Version '9.9' for 'foo' was not found",
        "ERROR: HTTP error 404 while getting http://m/a.whl (from http://m/six/)",
        "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n    six==1.16.0 from",
        "ERROR: No matching distribution found for numpy==99.9",
        "No space left on device",
        "Could not resolve 'mirror.example'",
        "connect (101: Network is unreachable)",
    ],
)
def test_what_does_not(text) -> None:
    found = diagnose(text, "role")

    assert found is not None
    assert not found.passes


def test_an_attempt_that_pip_repeats_is_no_cause() -> None:
    text = RETRIED.replace("total=0", "total=3").format("ReadTimeoutError(...)")
    assert diagnose(text, "role") is None


def test_what_the_output_names_is_named() -> None:
    found = diagnose("E: Version '6.12.94-1' for 'linux-image-x' was not found", "role")

    assert found is not None
    assert found.cause == "The mirror has no version 6.12.94-1 of linux-image-x any more."
    assert found.cure.startswith("`apt-cache madison linux-image-x` lists")


def test_a_rule_of_another_place_is_not_asked() -> None:
    assert diagnose("Timeout waiting for SSH", "role") is None


# --- an error with a cause ------------------------------------------------------------------------


def test_an_error_keeps_its_own_hint_below_the_cure() -> None:
    error = explained(CommandError("m", hint="look there"), "Timeout waiting for SSH", "packer")

    sentence = "The guest did not answer on SSH in time."
    assert error.cause == Cause("packer-ssh-timeout", sentence, passes=True)
    assert error.hint == "the guest's console log says how far it came\nlook there"


def test_a_hint_that_says_the_same_is_told_once() -> None:
    cure = "the guest's console log says how far it came"
    assert explained(CommandError("m", hint=cure), "Timeout waiting for SSH", "packer").hint == cure


def test_an_error_that_nobody_knows_stays_as_it_is() -> None:
    error = explained(CommandError("m"), "?", "packer", hint="read the log")

    assert (error.cause, error.hint) == (None, "read the log")
    assert explained(CommandError("m", hint="h"), "?", "packer", hint="read the log").hint == "h"


def test_the_console_of_a_silent_guest_knows_better_than_who_waited_for_it(tmp_path) -> None:
    console = tmp_path / "console.log"
    console.write_text("[FAILED] Failed to start ssh.service - OpenBSD Secure Shell server.\n")
    output = "Timeout waiting for SSH"
    waited = explained(CommandError("packer failed", output=output), output, "packer")

    error = silent(waited, console)

    assert error.cause is not None
    assert error.cause.rule == "sshd-failed"
    assert error.message.splitlines()[1].strip().startswith("[FAILED]")
    assert "sshd -t" in error.hint.splitlines()[0]
    assert (error.output, error.log) == (output, console)


def test_a_console_without_a_reason_leaves_the_cause(tmp_path) -> None:
    waited = explained(CommandError("packer failed"), "Timeout waiting for SSH", "packer")

    error = silent(waited, tmp_path / "never written")

    assert (error.message, error.cause, error.hint) == ("packer failed", waited.cause, waited.hint)


def test_it_costs_nothing_while_nothing_fails() -> None:
    program = (
        "import sys, builder.cli, builder.guest, builder.packing, builder.stage_build\n"
        "sys.exit('builder.failures' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# --- a catalogue that is wrong --------------------------------------------------------------------


def test_a_good_rule_is_read(catalogue) -> None:
    (rule,) = catalogue({})
    assert (rule.id, rule.where, rule.example) == ("a-rule", "any", "bad x")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pattern": "(unclosed"}, r"failures.yml:2: 0.pattern: is no regular expression: missing"),
        ({"cause": "{where}"}, r"failures.yml:3: 0.cause: {where} is no named group"),
        ({"cure": "{"}, r"failures.yml:4: 0.cure: is no template"),
        ({"cure": "{}"}, r"failures.yml:4: 0.cure: {} is no named group"),
        ({"id": "A rule"}, r"failures.yml:1: 0.id: use small letters"),
        ({"example": "good"}, r"failures.yml:5: 0.example: .* matches no rule"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_with_its_line(change, said, catalogue) -> None:
    with pytest.raises(ProjectError, match=said):
        catalogue(change)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("  passes: maybe\n", "0.passes: must be true or false"),
        ("  where: home\n", "0.where: must be one of role, ssh, packer, host, any"),
        ("  whree: role\n", "0.whree: is not a key that is known here"),
        ("- text\n", "1: must be a mapping"),
        ("- id: b\n", "cause must be text"),
    ],
)
def test_a_rule_has_the_keys_of_a_rule(more, said, catalogue) -> None:
    with pytest.raises(ProjectError, match=said):
        catalogue({}, more=more)


def test_a_catalogue_is_a_list(tmp_path) -> None:
    (tmp_path / "a.yml").write_text("id: a\n")
    with pytest.raises(ProjectError, match="must be a list of rules"):
        load(tmp_path / "a.yml")


def test_a_rule_that_an_earlier_one_hides_is_told(catalogue) -> None:
    with pytest.raises(ProjectError, match="the example of second matches a-rule instead"):
        catalogue({}, {"id": "second", "pattern": "bad x", "cause": "c"})
    with pytest.raises(ProjectError, match="a-rule is there twice"):
        catalogue({}, {})
