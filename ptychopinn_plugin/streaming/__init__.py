"""Reconstruction while a scan runs: sources of patterns and positions, and the growing object."""
