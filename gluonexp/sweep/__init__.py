"""Sweeps: one object with a result."""
