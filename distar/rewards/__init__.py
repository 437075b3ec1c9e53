"""What people prefer, as functions of pictures and prompts: one file a reward.

To add one: a file here, and its parameters, with their `build`, in the union of `params.py`.
"""
