"""The audit: what a release was made of, and what is left over of runs that are no more."""
