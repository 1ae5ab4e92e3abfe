"""Experiments on real data, each with its tables, plots and numbers.

They need the extra ``experiments``: ``pip install ".[experiments]"`` in a clone.
"""
