"""Fetch the models of a lock file into the model folder; print what changed.

    fetch_models.py DIRECTORY < LOCK

The lock comes as JSON. HF_ENDPOINT says where the models are: in a build, vaultbuild's own cache of
models. A file has the bytes that the lock says, or it is not there.
"""
# ruff: noqa: INP001, T201 - a program that is sent to the guest, not a module

import hashlib
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path, PurePosixPath

BLOCK = 1 << 20
ATTEMPTS = 3
PATIENCE = 60  # seconds until a silent server is given up
SERVER_ERROR = 500


class WrongError(Exception):
    """A model cannot be had as the lock wants it."""


def place(folder: Path, repo: str, path: str) -> Path:
    """Return where a file goes; what leads out of the folder is refused."""
    relative = PurePosixPath(repo) / path
    if relative.is_absolute() or ".." in relative.parts or len(PurePosixPath(repo).parts) != 2:  # noqa: PLR2004
        raise WrongError(f"{repo}: {path} is no path inside a repository")
    return folder / relative


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def receive(url: str, target: Path) -> str:
    """Write the bytes of a URL to a file; return their SHA-256."""
    # The cache is beside the guest: no proxy leads there.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found = hashlib.sha256()
    with direct.open(url, timeout=PATIENCE) as answer, target.open("wb") as file:
        while block := answer.read(BLOCK):
            found.update(block)
            file.write(block)
    return found.hexdigest()


def try_to_receive(url: str, target: Path, wanted: str, wait: float) -> None:
    """Receive a file, again where that may help."""
    for left in reversed(range(ATTEMPTS)):
        try:
            found = receive(url, target)
        except (OSError, http.client.HTTPException) as error:
            passing = not isinstance(error, urllib.error.HTTPError) or error.code >= SERVER_ERROR
            if not (left and passing):
                raise WrongError(f"cannot fetch {url}: {error}") from error
        else:
            if found == wanted:
                return
            if not left:
                raise WrongError(f"{url} has SHA-256 {found}, wanted {wanted}")
        time.sleep(wait * (ATTEMPTS - left))


def fetch(url: str, target: Path, wanted: str, wait: float) -> bool:
    """Have a read-only file with the wanted bytes; say whether it had to be fetched."""
    if target.is_file() and digest(target) == wanted:
        return False
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        try_to_receive(url, partial, wanted, wait)
        partial.chmod(0o444)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return True


def main(folder: Path, lock: dict, endpoint: str, wait: float = 1) -> None:
    """Fetch the models of a lock below ``folder``."""
    for model in lock["models"]:
        repo, commit = model["repo"], model["commit"]
        for path, file in sorted(model["files"].items()):
            target = place(folder, repo, path)
            url = f"{endpoint.rstrip('/')}/{repo}/resolve/{commit}/{urllib.parse.quote(path)}"
            if fetch(url, target, file["sha256"], wait):
                print(target)


if __name__ == "__main__":
    if "HF_ENDPOINT" not in os.environ:
        sys.exit("HF_ENDPOINT is not set: it says where models are fetched from")
    try:
        main(Path(sys.argv[1]), json.load(sys.stdin), os.environ["HF_ENDPOINT"])
    except WrongError as wrong:
        sys.exit(str(wrong))
