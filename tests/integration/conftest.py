"""What the tests with real programs share."""

import os

import pytest


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program of this test before all others on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, text: str) -> None:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    return make
