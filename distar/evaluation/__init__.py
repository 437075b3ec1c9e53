"""Evaluation: drawing pictures, measuring them, and the report."""
