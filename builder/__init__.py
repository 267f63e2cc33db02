"""vaultbuild: golden disk images for GPU hosts."""

__version__ = "0.1.0"
