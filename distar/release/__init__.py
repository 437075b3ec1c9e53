"""Releases: packaging a folder that plain diffusers loads, and the stores that releases are kept in."""
