"""Diffusion models: schedule, parametrisations, and the three players (reference, assistant, generator)."""
