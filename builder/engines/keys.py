"""Throwaway SSH keys: one pair a run, gone with the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from builder import process
from builder.engines import Keys

if TYPE_CHECKING:
    from pathlib import Path


def make_keys(folder: Path) -> Keys:
    """Make an ed25519 key pair in ``folder``."""
    private = folder / "ssh_key"
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vaultbuild", "-f", private])
    return Keys(private=private, public=private.with_suffix(".pub").read_text().strip())
