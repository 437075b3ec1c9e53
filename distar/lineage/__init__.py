"""Lineage: what is written down of each run."""
