"""The smallest root file system that a program runs in: the libraries that it is linked with.

For a container to which CDI gives the driver: nvidia-smi and NVIDIA's libraries come with the GPUs,
and those of the C library, which they need, must be there. Nothing is fetched for it.
"""
# ruff: noqa: INP001 - a program of its own: see __main__.py

from __future__ import annotations

import io
import re
import shutil
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpu_check.host import Host

# `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`; the loader's own line has no arrow.
_LIBRARY = re.compile(r"(?:^|=>)\s*(/\S+) \(0x", re.MULTILINE)
# What Container Toolkit's hook adds to, so that the loader finds what CDI brought.
_LD_SO_CONF = b"include /etc/ld.so.conf.d/*.conf\n"
_FOLDERS = ("dev", "etc", "etc/ld.so.conf.d", "proc", "run", "sys", "tmp", "usr", "usr/bin")


def packed(host: Host, program: str) -> bytes:
    """Return it as a tar archive; raises OSError where it cannot be known what is needed."""
    place = shutil.which(program)
    answer = host.run(["ldd", place or program])
    libraries = _LIBRARY.findall(answer.stdout)
    if answer.status != 0 or not libraries or "not found" in answer.stdout:
        raise OSError(f"ldd does not tell what {program} needs: {answer.last}")
    buffer = io.BytesIO()
    # A link is packed as the file that it leads to.
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name in _FOLDERS:
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
        for path in libraries:
            archive.add(path, arcname=path.lstrip("/"))
        conf = tarfile.TarInfo("etc/ld.so.conf")
        conf.size, conf.mode = len(_LD_SO_CONF), 0o644
        archive.addfile(conf, io.BytesIO(_LD_SO_CONF))
    return buffer.getvalue()
