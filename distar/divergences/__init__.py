"""How far the generator's diffusion process is from the reference's: one file a divergence.

A divergence maps a `Comparison` to a loss for each sample and says whether it differentiates through
the score networks. To add one: a file here, and its parameters, with their `build`, in the union of `params.py`.
"""
