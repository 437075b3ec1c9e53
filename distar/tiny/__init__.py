"""The embedded world: its renderer, its annotator, and the recipe that trained its models."""
