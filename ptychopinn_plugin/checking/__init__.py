"""Whether patterns and positions of a scan go together: trial reconstructions, ranked."""
