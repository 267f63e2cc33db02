"""Releases: their names, what counts as one, and whether two clones are two machines."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.digest import Facts
from builder.errors import StoreError
from builder.release.clones import Clone, clone_results, share_identity
from builder.release.publish import (
    _judge,
    _summary,
    find_release,
    packages_digest,
    publish,
    release_name,
)
from builder.scratch import owned
from builder.verify import CheckResult

KEY = "0123456789abcdef" * 4
DISK = "d" * 64
IMAGE = SimpleNamespace(
    key=KEY, record=SimpleNamespace(stage="final", key=KEY, disk=SimpleNamespace(sha256=DISK))
)
SHA256 = hashlib.sha256(b"disk").hexdigest()
LINK = {"stage": "final", "key": KEY, "sha256": DISK}
PIPELINE = SimpleNamespace(name="gpu-host", variant="debian-13", version="1.0.0")


def clone(firmware: str, machine_id: str = "", *host_keys: str) -> Clone:
    return Clone(firmware, machine_id, host_keys, login=True, results=(), seconds=30.0)


def outcomes(first: Clone, second: Clone) -> list[str]:
    keys, ids, *_ = clone_results(first, second)
    assert "host keys" in keys.name
    assert "machine-id" in ids.name
    return [keys.outcome, ids.outcome]


@pytest.fixture
def release(tmp_path):
    """Write a release of an image; ``changes`` are made to its manifest."""

    def write(**changes) -> Path:
        folder = tmp_path / release_name(PIPELINE, KEY)
        folder.mkdir()
        disk = folder / f"{folder.name}.qcow2"
        disk.write_bytes(b"disk")
        manifest = {
            "image": {"file": disk.name, "sha256": SHA256, "compression": "zstd"},
            "lineage": [{"stage": "base", "key": "b" * 64, "sha256": "e" * 64}, LINK],
        }
        (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))
        return folder

    return write


# --- clones ---------------------------------------------------------------------------------------


def test_two_machines_share_nothing():
    assert outcomes(
        clone("bios", "1", "ed25519 AAA", "rsa BBB"), clone("uefi", "2", "ed25519 CCC", "rsa DDD")
    ) == ["passed", "passed"]


def test_one_shared_host_key_is_one_too_many():
    first = clone("bios", "1", "ed25519 AAA", "rsa BBB")
    second = clone("uefi", "2", "ed25519 CCC", "rsa BBB")
    assert outcomes(first, second) == ["failed", "passed"]
    assert share_identity(first, second)
    assert "rsa BBB" in clone_results(first, second)[0].message


def test_a_shared_machine_id_fails():
    first, second = clone("bios", "1", "ed25519 AAA"), clone("uefi", "1", "ed25519 CCC")
    assert outcomes(first, second) == ["passed", "failed"]
    assert share_identity(first, second)


def test_a_clone_that_comes_to_no_login_fails():
    first, second = clone("bios", "1", "ed25519 A"), clone("uefi", "2", "ed25519 B")
    silent = replace(second, login=False)
    assert not share_identity(first, silent), "the hint would be about another mistake"
    logins = clone_results(first, silent)[2:]
    assert [(item.name.split()[-1], item.outcome) for item in logins] == [
        ("bios", "passed"),
        ("uefi", "failed"),
    ]


def test_a_machine_without_an_identity_fails():
    assert outcomes(clone("bios", ""), clone("uefi", "")) == ["failed", "failed"]
    assert outcomes(clone("bios", "1"), clone("uefi", "2", "ed25519 C")) == ["failed", "passed"]


# --- the place of a release -----------------------------------------------------------------------


def found(output: Path, compression: str = "zstd"):
    facts = Facts(output / "facts.json")
    return find_release(PIPELINE, IMAGE, output, compression, facts)


def test_a_name_says_what_it_is():
    assert release_name(PIPELINE, KEY) == "gpu-host-debian-13-1.0.0-01234567"


def test_nothing_is_no_release(tmp_path):
    assert found(tmp_path / "dist") is None


def test_a_release_is_found(release, tmp_path):
    folder = release()
    there = found(tmp_path)
    assert there.folder == folder
    assert there.image.read_bytes() == b"disk"


def test_a_release_in_another_compression_is_in_the_way(release, tmp_path):
    release()
    with pytest.raises(StoreError, match="compressed in another way"):
        found(tmp_path, "zlib")


def test_a_flipped_bit_in_a_release_is_seen(release, tmp_path):
    folder = release()
    assert found(tmp_path)
    found(tmp_path).image.write_bytes(b"disc")
    with pytest.raises(StoreError, match="changed after it was published"):
        found(tmp_path)
    assert folder.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"image": {"file": "gone.qcow2", "sha256": SHA256, "compression": "zstd"}},
        {
            "image": {
                "file": f"{release_name(PIPELINE, KEY)}.qcow2",
                "sha256": "0",
                "compression": "",
            }
        },
        {"image": None},
        {"lineage": [{**LINK, "key": "f" * 64}]},
        {"lineage": [{**LINK, "sha256": "f" * 64}]},
        {"lineage": []},
    ],
    ids=["no disk", "other bytes", "no image", "another image", "built again", "no lineage"],
)
def test_what_is_not_this_release_is_in_the_way(release, tmp_path, changes):
    folder = release(**changes)
    with pytest.raises(StoreError, match="exists and is not this release") as caught:
        found(tmp_path)
    assert str(folder) in caught.value.message
    assert "never overwritten" in caught.value.hint


def test_a_foreign_folder_is_in_the_way(tmp_path):
    (tmp_path / release_name(PIPELINE, KEY)).mkdir()
    with pytest.raises(StoreError, match="exists and is not this release"):
        found(tmp_path)


def test_a_file_is_in_the_way(tmp_path):
    (tmp_path / release_name(PIPELINE, KEY)).write_text("notes")
    with pytest.raises(StoreError, match="exists and is not this release"):
        found(tmp_path)


# --- what killed runs left ------------------------------------------------------------------------


def test_what_a_killed_publish_of_another_image_left_goes(release, tmp_path):
    """The lock on a folder goes with its holder; what is held is somebody's work."""
    folder = release()
    unused = Path("/proc/sys/kernel/pid_max").read_text().strip()
    left, held, foreign = (
        tmp_path / f".staging-{unused}-a",
        tmp_path / f".staging-{unused}-b",
        tmp_path / ".mine",
    )
    for each in (left, held, foreign):
        each.mkdir()
        (each / "disk.raw").write_bytes(b"half")
    told = []
    reporter = SimpleNamespace(
        concerning=lambda *_: None, published=lambda image, _, *, fresh: told.append((image, fresh))
    )
    project = SimpleNamespace(
        pipeline=PIPELINE, facts=Facts(tmp_path / "facts.json"), engine=SimpleNamespace(name="qemu")
    )
    with owned(held):
        publish(project, IMAGE, output=tmp_path, logs=lambda: tmp_path, reporter=reporter)
        assert held.exists()
    assert told == [(folder / f"{folder.name}.qcow2", False)]
    assert not left.exists()
    assert foreign.exists()


# --- what a manifest says -------------------------------------------------------------------------


def test_each_check_of_a_release_says_where_it_was_asked():
    """A container's answer is no VM's, and what was seen of the file is neither's."""
    image = SimpleNamespace(key=KEY, record=IMAGE.record)
    answers = [
        CheckResult("base/test_a.py::test_booted", "passed", 1.0, "", "qemu"),
        CheckResult("base/test_a.py::test_anywhere", "passed", 1.0, "", "nspawn"),
    ]
    first = replace(clone("bios", "1", "ed25519 A"), results=tuple(answers))
    project = SimpleNamespace(vm=SimpleNamespace(name="qemu"), command=" ".join)
    seen = [CheckResult("release::stands alone", "passed", 0.1, "")]
    clones = (first, clone("uefi", "2", "ed25519 B"))
    checks = SimpleNamespace(digest=lambda: "c" * 64)
    verdict = _judge(project, seen, clones, image, checks)
    told = {each["name"]: each["engine"] for each in _summary(verdict)["results"]}
    assert told.pop("release::stands alone") == "none"
    assert told.pop("base/test_a.py::test_anywhere") == "nspawn"
    assert set(told.values()) == {"qemu"}
    assert verdict.asked() == "1 of the file, 5 qemu, 1 nspawn"


def test_the_order_of_packages_is_no_difference():
    first = {"dpkg": {"a": "1", "b": "2"}, "python default": {"c": "3"}}
    second = {"python default": {"c": "3"}, "dpkg": {"b": "2", "a": "1"}}
    assert packages_digest(first) == packages_digest(second)


def test_another_package_is_another_list():
    packages = {"dpkg": {"a": "1"}, "python default": {"c": "3"}}
    others = [
        {**packages, "dpkg": {"a": "2"}},
        {**packages, "dpkg": {"a": "1", "b": "2"}},
        {**packages, "python other": {}},
        {"dpkg": {"a": "1"}, "python other": {"c": "3"}},
    ]
    assert len({packages_digest(one) for one in (packages, *others)}) == len(others) + 1
