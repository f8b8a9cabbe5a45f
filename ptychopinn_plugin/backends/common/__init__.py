"""What the backends share; no framework is imported here."""
