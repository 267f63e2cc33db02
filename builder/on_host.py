"""What runs on a GPU host that is checked over SSH: unpack the checks, run them, answer, go.

This file is not imported by the driver: it is sent as ``python3 -c``, and what it needs comes on
its stdin. It leaves nothing behind, also when the connection breaks. It knows only the standard
library, and is written so that an old Python can still say that it is too old.
"""

# ruff: noqa: T201 - its result

import base64
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PAPERS = ("json", "junit")
PR_SET_PDEATHSIG = 1
OLDEST = (3, 9)
GRACE = 30


def end_with_the_connection() -> None:
    """Have the kernel say when sshd's side of the connection is gone."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def checked(task: Any, folder: Path) -> Any:
    """Run the checks in a folder; return what they wrote, and how they ended."""
    program, expected = folder / "gpu-check.pyz", folder / "expect.json"
    program.write_bytes(base64.b64decode(task["program"]))
    expected.write_text(json.dumps(task["expected"]))
    argv = [sys.executable, str(program), "--level", task["level"], "--expect", str(expected)]
    argv += [word for paper in PAPERS for word in ("--" + paper, str(folder / paper))]
    # A session of its own: when the connection goes, all that was started goes with it.
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said = child.communicate()[0].decode(errors="replace")
    finally:
        # What it changed on the GPUs it sets back, where it is asked to end and has the time.
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    papers = {name: (folder / name).read_text() for name in PAPERS if (folder / name).exists()}
    return {"status": child.returncode, "said": said, **papers}


def main() -> None:
    """Answer what stdin asks."""
    if sys.version_info < OLDEST:
        print(json.dumps({"old": sys.version.split()[0]}))
        return
    end_with_the_connection()
    task = json.load(sys.stdin)
    with tempfile.TemporaryDirectory(prefix="gpu-check.") as name:
        print(json.dumps(checked(task, Path(name))))


if __name__ == "__main__":
    main()
