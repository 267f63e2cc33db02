"""A signed package archive with what NVIDIA's has: names, versions, files and units, no programs.

The packages do what the real ones do to a machine that installs them: those that start a service
when they are installed try to.
"""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = "550.163.01"
NCCL, CUDNN = "2.22.3-1+cuda12.4", "9.1.0.70-1"
DCGM, EXPORTER, TOOLKIT = "1:4.4.1-1", "4.5.2-1", "1.18.1-1"
FABRIC = f"{DRIVER}-1"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
UNITS = "usr/lib/systemd/system"
# Without a GPU it fails, as the real programs do: a unit that is not skipped is then a failed one.
FAILS = "#!/bin/sh\necho no GPU >&2\nexit 1\n"


def service(program: str, more: str = "") -> str:
    return f"[Service]\nExecStart={program}\n{more}\n[Install]\nWantedBy=multi-user.target\n"


def library(soname: str, function: str, number: int) -> bytes:
    """A shared library for x86-64 with one function, which writes a number to its argument."""
    strings = f"\0{soname}\0{function}\0".encode()
    code = (
        b"\xc7\x07" + struct.pack("<I", number) + b"\x31\xc0\xc3"
    )  # mov [rdi], N; xor eax, eax; ret
    header, segments = 64, 3 * 56
    at = {"code": header + segments}
    at["symbols"] = at["code"] + 16
    at["hash"] = at["symbols"] + 48
    at["strings"] = at["hash"] + 24
    at["dynamic"] = (at["strings"] + len(strings) + 15) // 16 * 16
    tags = [
        (14, 1),  # DT_SONAME
        (4, at["hash"]), (5, at["strings"]), (6, at["symbols"]), (10, len(strings)), (11, 24),
        (0, 0),
    ]  # fmt: skip
    dynamic = b"".join(struct.pack("<QQ", *tag) for tag in tags)
    size = at["dynamic"] + len(dynamic)
    symbol = struct.pack("<IBBHQQ", 2 + len(soname), 0x12, 0, 1, at["code"], len(code))
    body = {
        "code": code,
        "symbols": bytes(24) + symbol,
        "hash": struct.pack("<6I", 1, 2, 1, 0, 0, 0),
        "strings": strings,
        "dynamic": dynamic,
    }
    whole = bytearray(size)
    whole[:header] = (
        b"\x7fELF\2\1\1"
        + bytes(9)
        + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, header, 0, 0, header, 56, 3, 0, 0, 0)
    )
    load = struct.pack("<IIQQQQQQ", 1, 7, 0, 0, 0, size, size, 4096)
    place = at["dynamic"], at["dynamic"], at["dynamic"], len(dynamic), len(dynamic), 8
    dynamics = struct.pack("<IIQQQQQQ", 2, 6, *place)
    # Without a word about the stack it would be taken for one that wants to run it.
    stack = struct.pack("<IIQQQQQQ", 0x6474E551, 6, 0, 0, 0, 0, 0, 16)
    whole[header : header + segments] = load + dynamics + stack
    for name, part in body.items():
        whole[at[name] : at[name] + len(part)] = part
    return bytes(whole)


def contents() -> dict[tuple[str, str], dict[str, str | bytes]]:
    """Name and version of each package: its files.

    "postinst" is what runs when it is installed, "Depends" what has to be installed before.
    """
    refresh = "/etc/systemd/system/nvidia-cdi-refresh"
    return {
        ("libcuda1", f"{DRIVER}-2"): {f"{LIBRARIES}/nvidia/current/libcuda.so.{DRIVER}": "driver"},
        ("libnccl2", NCCL): {
            f"{LIBRARIES}/libnccl.so.2": library("libnccl.so.2", "ncclGetVersion", 22203)
        },
        ("libcudnn9-cuda-12", CUDNN): {f"{LIBRARIES}/libcudnn.so.9.1.0": "library"},
        ("datacenter-gpu-manager-4-core", DCGM): {
            "usr/bin/nv-hostengine": FAILS,
            f"{UNITS}/nvidia-dcgm.service": service("/usr/bin/nv-hostengine -n"),
        },
        ("datacenter-gpu-manager-4-cuda12", DCGM): {"usr/share/doc/dcgm-cuda12": "part"},
        ("datacenter-gpu-manager-exporter", EXPORTER): {
            "usr/bin/dcgm-exporter": FAILS,
            "etc/dcgm-exporter/default-counters.csv": "DCGM_FI_DEV_SM_CLOCK, gauge, clock\n",
            f"{UNITS}/nvidia-dcgm-exporter.service": service(
                "/usr/bin/dcgm-exporter -f /etc/dcgm-exporter/default-counters.csv",
                "StandardOutput=append:/var/dcgm-exporter.log",
            ),
        },
        ("nvidia-fabricmanager-550", FABRIC): {
            "usr/bin/nv-fabricmanager": FAILS,
            f"{UNITS}/nvidia-fabricmanager.service": service("/usr/bin/nv-fabricmanager"),
        },
        ("nvidia-fabricmanager-550", "550.90.07-1"): {"usr/bin/nv-fabricmanager": FAILS},
        ("libnvidia-container1", TOOLKIT): {f"{LIBRARIES}/libnvidia-container.so.1": "library"},
        ("libnvidia-container-tools", TOOLKIT): {"usr/bin/nvidia-container-cli": FAILS},
        ("nvidia-container-toolkit", TOOLKIT): {"usr/bin/nvidia-container-runtime-hook": FAILS},
        ("nvidia-container-toolkit-base", TOOLKIT): {
            "usr/bin/nvidia-ctk": FAILS,
            f"{refresh}.service"[1:]: service("/usr/bin/nvidia-ctk cdi generate", "Type=oneshot"),
            f"{refresh}.path"[1:]: (
                "[Path]\nPathChanged=/lib/modules/%v/modules.dep\n"
                "[Install]\nWantedBy=multi-user.target\n"
            ),
            "postinst": (
                "#!/bin/sh\nsystemctl daemon-reload\n"
                "systemctl enable --now nvidia-cdi-refresh.path\n"
                "systemctl enable --now nvidia-cdi-refresh.service || true\n"
            ),
        },
    }


def make(
    folder: Path, keys: Path, packages: dict[tuple[str, str], dict[str, str | bytes]] | None = None
) -> tuple[Path, Path]:
    """Make the archive; return it as a tar archive, and the key that it is signed with."""
    archive = folder / "archive"
    archive.mkdir(parents=True)
    stanzas = [
        package(folder, archive, *name, files) for name, files in (packages or contents()).items()
    ]
    index = "\n".join(stanzas)
    (archive / "Packages").write_text(index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    (archive / "Release").write_text(
        "Origin: Test\nSuite: test\nDate: Thu, 26 Nov 2026 00:00:00 UTC\nSHA256:\n"
        f" {digest} {len(index.encode())} Packages\n"
    )
    key = sign(archive, keys, folder / "nvidia.asc")
    with tarfile.open(folder / "archive.tar", "w") as tar:
        tar.add(archive, ".")
    return folder / "archive.tar", key


def package(
    folder: Path, archive: Path, name: str, version: str, files: dict[str, str | bytes]
) -> str:
    """Make one package; return what the index says of it."""
    root = folder / f"{name}_{version.replace(':', '%')}"
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        f"Maintainer: nobody <nobody@example>\nDescription: stands for {name}\n"
    )
    if depends := files.get("Depends"):
        control += f"Depends: {depends!s}\n"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(control)
    for path, content in files.items():
        if path == "Depends":
            continue
        target = root / (f"DEBIAN/{path}" if path == "postinst" else path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        target.chmod(0o755 if "/bin/" in path or path == "postinst" else 0o644)
    deb = archive / f"{root.name}.deb"
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", root, deb]
    subprocess.run(command, check=True, capture_output=True)
    digest = hashlib.sha256(deb.read_bytes()).hexdigest()
    return f"{control}Filename: ./{deb.name}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"


def sign(archive: Path, keys: Path, public: Path) -> Path:
    """Sign the archive with a new key; return the file of its public half."""
    keys.mkdir(mode=0o700)
    env = {**os.environ, "GNUPGHOME": str(keys)}

    def gpg(*arguments: object) -> bytes:
        command = ["gpg", "--batch", "--yes", "--passphrase", "", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, env=env).stdout

    try:
        gpg("--quick-generate-key", "Test archive <archive@example>", "rsa3072", "sign", "never")
        gpg("--clearsign", "--output", archive / "InRelease", archive / "Release")
        public.write_bytes(gpg("--armor", "--export"))
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=True, env=env)
    return public
