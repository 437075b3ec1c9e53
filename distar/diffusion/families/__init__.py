"""Reference models by family: one file a family, which supplies only what differs.

To add one: a file here with its networks and text encoders, and its parameters, with their `build` and
`build_text_encoder`, in the union of `params.py`.
"""
