"""Handing the trained network over."""
