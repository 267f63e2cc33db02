"""What the checks ask about signed modules, in one go; prints JSON.

Argument: the folders of the modules, as JSON.
"""

import base64
import hashlib
import json
import lzma
import struct
import subprocess
import sys
from pathlib import Path

FOLDERS = json.loads(sys.argv[1])
MAGIC = b"~Module signature appended~\n"
CERTIFICATE = Path("/usr/share/secure-boot/modules.der")


def say(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def read(path):
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    return path.read_bytes()


def signature(path):
    """What was signed, and the signature: the last bytes of the message that holds it."""
    module = read(path)
    if not module.endswith(MAGIC):
        return {"digest": hashlib.sha256(module).hexdigest(), "message": ""}
    end = len(module) - len(MAGIC) - 12
    (length,) = struct.unpack_from(">I", module, end + 8)
    message = base64.b64encode(module[end - length : end]).decode()
    return {"digest": hashlib.sha256(module[: end - length]).hexdigest(), "message": message}


def modules():
    """Every module in the folders of every kernel that can boot."""
    kernels = [path.name.removeprefix("vmlinuz-") for path in Path("/boot").glob("vmlinuz-*")]
    roots = [Path("/lib/modules", kernel, folder) for kernel in kernels for folder in FOLDERS]
    paths = sorted(p for root in roots for p in root.rglob("*.ko*") if p.is_file())
    return {
        str(path): {"signer": say("modinfo", "-F", "signer", str(path)), **signature(path)}
        for path in paths
    }


ASKED = {
    "certificate": lambda: base64.b64encode(CERTIFICATE.read_bytes()).decode(),
    "modules": modules,
}


def answer(ask):
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"error: {error!r}"


print(json.dumps({name: answer(ask) for name, ask in ASKED.items()}))  # noqa: T201 - its result
