"""What tests of commands share: runs whose figures are made and not drawn."""

from pathlib import Path

import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are files of nothing: drawing takes most of a tiny run, and is for one test to see.

    Fixtures of a module are made before, and draw.
    """
    figure = pytest.importorskip("matplotlib.figure")

    def savefig(self, path, **_):
        Path(path).write_bytes(b"")

    monkeypatch.setattr(figure.Figure, "savefig", savefig)
