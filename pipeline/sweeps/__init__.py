"""Sweeps: many runs of one experiment with other values, kept in a storage that several processes share."""
