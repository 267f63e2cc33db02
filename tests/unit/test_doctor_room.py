"""How doctor judges the room and the memory that are left: by what was measured, else a guess."""

from types import SimpleNamespace

import pytest

from builder.digest import digest_document, digest_file
from builder.doctor import Case, Host, memory
from builder.doctor import store as doctor_store
from builder.record import BuildRecord, DiskRecord
from builder.store import DISK, Store

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "level"), [(2, "fail"), (4, "warn"), (6, "ok")], ids=["none", "tight", "ample"]
)
def test_room_is_lacking_below_what_was_measured(free, level):
    last = {"source": 1 * GIB, "base": 2 * GIB}
    found, why = doctor_store.room(free * GIB, last, 99 * GIB)
    assert found == level
    assert "below 6.0 GiB it warns, below 3.0 GiB it fails" in why


@pytest.mark.parametrize(("free", "level"), [(0.5, "fail"), (2, "warn"), (39, "warn"), (41, "ok")])
def test_a_guess_is_no_failure_where_a_build_would_begin(free, level):
    found, why = doctor_store.room(int(free * GIB), {}, 20 * GIB)
    assert found == level
    assert "a guess by resources.disk: 40.0 GiB with a release" in why
    assert "below 40.0 GiB it warns, below 1.0 GiB it fails" in why


# --- memory ---------------------------------------------------------------------------------------


@pytest.fixture
def case(tmp_path):
    """Call it with an engine and stages: what a VM gets, and what the largest process took."""
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n")
    store = Store(tmp_path / "cache/var")

    def make(engine, stages, *, source="bootstrap", standard=1):
        made = []
        for name, (given, took) in stages.items():
            resources = SimpleNamespace(memory_mib=int(given * 1024))
            made.append(SimpleNamespace(name=name, resources=resources))
            if took:
                _remember(store, name, int(took * GIB))
        pipeline = SimpleNamespace(
            project=tmp_path,
            variant="one",
            stages=tuple(made),
            source=SimpleNamespace(kind=source),
            resources=SimpleNamespace(memory_mib=standard * 1024),
        )
        return Case(pipeline, Host(meminfo=tmp_path / "meminfo", root=False), engine)

    return make


def _remember(store, stage, took):
    documents = [{"kind": "role", "stage": stage}]
    with store.staging() as staged:
        (staged / DISK).write_bytes(b"disk")
        disk = DiskRecord(digest_file(staged / DISK), 4)
        record = BuildRecord(
            key=digest_document(documents[-1]), variant="one", stage=stage, created="now",
            seconds=1.0, documents=tuple(documents), parent=None, disk=disk,
            largest_process_bytes=took,
        )  # fmt: skip
        store.commit(staged, record)
    store.remember("one", stage, documents)


@pytest.mark.parametrize(
    ("base", "final", "level"),
    [(6, 3, "ok"), (7, 3, "warn"), (9, 3, "fail"), (1, 4, "warn"), (1, 9, "fail")],
)
def test_the_largest_vm_and_the_two_of_a_release_are_compared_with_the_host(
    base, final, level, case
):
    """Of 8 GiB 6 are available."""
    (finding,) = memory.guests(case("qemu", {"base": (base, 0), "final": (final, 0)}))
    assert finding.level == level
    assert "6.0 GiB available of 8.0 GiB" in finding.evidence
    assert f"{max(base, 2 * final)}.0 GiB needed" in finding.evidence
    assert f"publishing boots 2 VMs of final at once, with {final}.0 GiB each" in finding.evidence
    assert ("resources.memory" in finding.cure) == (level != "ok")


@pytest.mark.parametrize(("took", "level"), [(5, "ok"), (7, "warn"), (9, "fail")])
def test_a_container_takes_what_it_needs_whatever_a_vm_would_get(took, level, case):
    looked = case("nspawn", {"base": (20, took), "final": (2, 1)})
    (finding,) = memory.guests(looked)
    assert finding.level == level
    assert f"a process of base took {took}.0 GiB" in finding.evidence
    assert "20.0 GiB" not in finding.evidence


def test_before_the_first_build_nobody_knows_what_a_container_takes(case):
    (finding,) = memory.guests(case("nspawn", {"final": (3, 0)}))
    assert (finding.level, "no build has told yet" in finding.evidence) == ("ok", True)


def test_an_installation_is_in_a_vm_whatever_the_engine(case):
    (finding,) = memory.guests(case("nspawn", {"final": (1, 1)}, source="iso", standard=9))
    assert finding.level == "fail"
    assert "the VM that installs gets 9.0 GiB" in finding.evidence


@pytest.mark.parametrize(
    ("engine", "took", "level"),
    [
        ("qemu", 3, "ok"), ("qemu", 5, "warn"), ("qemu", 9, "fail"),
        ("nspawn", 5, "ok"), ("nspawn", 7, "warn"), ("nspawn", 9, "fail"),
    ],
)  # fmt: skip
def test_memory_is_judged_by_the_largest_process_of_the_last_builds(engine, took, level, case):
    """What a VM is given counts where there are VMs."""
    looked = case(engine, {"base": (4, 1), "drivers": (4, took)})
    (finding,) = memory.history(looked)
    assert finding.level == level
    assert f"base 1.0 GiB, drivers {took}.0 GiB; 6.0 GiB available" in finding.evidence
    in_vms = engine == "qemu"
    assert ("a VM of drivers gets 4.0 GiB" in finding.evidence) == in_vms
    assert ("stages/drivers/stage.yml" in finding.cure) == (in_vms and level != "ok")


def test_where_no_memory_was_counted_nothing_is_said(case):
    assert not list(memory.history(case("qemu", {"base": (4, 0)})))
