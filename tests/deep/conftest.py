"""What tests of networks share: runs whose report is not what is tested."""

import pytest


@pytest.fixture
def short_probes(monkeypatch):
    """Probes of the report that ends a run train for one epoch: of a tiny run they are half."""
    from immucond.deep import linear_probes

    monkeypatch.setitem(linear_probes.__kwdefaults__, "epochs", 1)
