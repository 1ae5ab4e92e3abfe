"""The release card: one JSON and one section of a model card, of raw runs.

Nothing here computes a measurement, and nothing needs PyTorch.
"""

from ._card import Card, as_json, card

__all__ = ["Card", "as_json", "card"]
