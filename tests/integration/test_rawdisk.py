"""A disk shown as a raw file and mounted: what is left of it when all is killed at once."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from builder import disks, process

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
WRITER = """
import itertools, os, sys
from pathlib import Path
from builder.rawdisk import exported, mounted

work = Path(sys.argv[1])
with exported(work / "disk.qcow2", work, work / "log") as raw, mounted(raw, work) as root:
    (work / "connection").write_text(str(os.minor(raw.stat().st_dev)))
    for number in itertools.count():
        (root / "written").write_bytes(os.urandom(1 << 20))
        if number == 20:
            (work / "connection").rename(work / "ready")
"""


@pytest.fixture
def work(tmp_path, raw_disk, require_root, require_program):
    """A folder with a disk that has an empty root file system."""
    require_root()
    for name in ("mkfs.ext4", "qemu-storage-daemon", "sfdisk", "unshare"):
        require_program(name)
    disks.import_raw(raw_disk("raw"), tmp_path / "disk.qcow2")
    return tmp_path


def test_killed_while_it_writes_it_leaves_neither_process_nor_device(work, alive):
    before = attached()
    argv = ["unshare", "--mount", sys.executable, "-c", WRITER, work]
    env = {"PYTHONPATH": str(ROOT)}
    writer = process.start(argv, log=work / "out", env=env, contained=True)
    with process.session(writer):
        wait((work / "ready").exists, 20)
        os.kill(writer.pid, signal.SIGKILL)
    connection = (work / "ready").read_text()
    try:
        wait(lambda: attached() <= before, 20)
        process.start(["sync"], log=work / "out").wait(20)
        assert not alive(str(work / "disk.qcow2"))
    finally:
        give_up(connection)


def wait(done, seconds):
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            pytest.fail(f"it hangs: not within {seconds} s")
        time.sleep(0.05)


def attached():
    """The loop devices whose files have no name here: their mount namespace is gone."""
    backings = Path("/sys/block").glob("loop*/loop/backing_file")
    return {
        each.parents[1].name for each in backings if not Path(each.read_text().strip()).exists()
    }


def give_up(connection):
    """End the FUSE connection, if it is still there: every sync of this host would wait for it."""
    folder = "/sys/fs/fuse/connections"
    abort = f"{folder}/{connection}/abort"
    script = f"mount -t fusectl none {folder} && if [ -e {abort} ]; then echo 1 > {abort}; fi"
    process.run(["unshare", "--mount", "sh", "-c", script], check=False)
