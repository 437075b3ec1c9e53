"""Diff-Instruct*: one-step text-to-image generators aligned with human preference (arXiv 2410.20898)."""
