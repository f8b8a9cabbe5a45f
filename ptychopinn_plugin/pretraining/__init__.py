"""The learned prior: a corpus of simulated scans, and the recipe that trains on it.

Run it as ``python -m ptychopinn_plugin.pretraining``; `docs/network.md` has the results.
"""
