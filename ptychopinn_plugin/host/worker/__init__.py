"""The process that computes for the window."""
