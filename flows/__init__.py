"""Prefect flows over the DVC stages; nothing here imports torch."""
