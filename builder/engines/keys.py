"""Throwaway SSH keys: one pair a run, gone with the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import process
from builder.engines import Keys

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "ssh_key"


def make_keys(folder: Path) -> Keys:
    """Make an ed25519 key pair in ``folder``."""
    private = folder / _NAME
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vaultbuild", "-f", private])
    return Keys(private=private, public=private.with_suffix(".pub").read_text().strip())


def public_key_in(folder: Path) -> str:
    """Return the public key of the pair that was made in ``folder``, without its comment."""
    return " ".join((folder / f"{_NAME}.pub").read_text().split()[:2])
