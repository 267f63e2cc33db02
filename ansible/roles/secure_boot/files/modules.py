"""Kernel modules and their signatures; runs in the guest.

    modules.py digests FOLDER...     print {"path": "SHA-256 without any signature"} as JSON
    modules.py append SIGNATURES     put them on (JSON: path, base64), print the paths that changed

A module of DKMS is there twice: where the kernel looks, and in DKMS' own tree. Both get the same
bytes, else DKMS says that they differ.
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

from __future__ import annotations

import base64
import hashlib
import json
import lzma
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"~Module signature appended~\n"
# Algorithm, hash, kind (2: PKCS #7), length of the signer's name, of the key's, padding, length.
TRAILER = struct.Struct(">BBBBB3xI")
PKCS7 = 2
DKMS = Path("/var/lib/dkms")
# What the kernel itself can unpack.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 1 << 20}]


def read(path: Path) -> bytes:
    """Return a module without compression."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def packed(suffix: str, module: bytes) -> bytes:
    """Return a module with the compression that its name promises."""
    if suffix == ".xz":
        return lzma.compress(module, check=lzma.CHECK_CRC32, filters=XZ)
    if suffix == ".zst":
        command = ["zstd", "-q", "-19", "-c"]
        return subprocess.run(command, input=module, check=True, capture_output=True).stdout
    return module


def bare(module: bytes) -> bytes:
    """Return a module without its signature, if it has one."""
    if not module.endswith(MAGIC):
        return module
    end = len(module) - len(MAGIC) - TRAILER.size
    length = TRAILER.unpack_from(module, end)[-1]
    return module[: end - length]


def signed(module: bytes, signature: bytes) -> bytes:
    """Return a bare module with a signature."""
    return module + signature + TRAILER.pack(0, 0, PKCS7, 0, 0, len(signature)) + MAGIC


def modules(folders: list[str]) -> Iterator[Path]:
    """Yield the modules in the folders."""
    for folder in folders:
        yield from sorted(p for p in Path(folder).rglob("*.ko*") if p.is_file())


def twins(path: Path, dkms: Path = DKMS) -> Iterator[Path]:
    """Yield a module and the same one in DKMS' tree: DRIVER/VERSION/KERNEL/ARCHITECTURE/module."""
    yield path
    kernel = path.parts[path.parts.index("modules") + 1]
    yield from dkms.glob(f"*/*/{kernel}/*/module/{path.name}")


def put(path: Path, content: bytes) -> None:
    """Replace a file in one step, with its mode."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content)
    aside.chmod(path.stat().st_mode & 0o777)
    aside.replace(path)


def append(signatures: dict[str, str]) -> Iterator[str]:
    """Sign modules; yield the paths of those that were not signed so already."""
    for name, signature in signatures.items():
        path = Path(name)
        old = read(path)
        new = signed(bare(old), base64.b64decode(signature))
        if new != old:
            content = packed(path.suffix, new)
            for twin in twins(path):
                put(twin, content)
            yield name


def main(verb: str, words: list[str]) -> None:
    """Do one of the two."""
    if verb == "digests":
        found = {str(p): hashlib.sha256(bare(read(p))).hexdigest() for p in modules(words)}
        print(json.dumps(found, sort_keys=True))
    else:
        for path in append(json.loads(words[0])):
            print(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
