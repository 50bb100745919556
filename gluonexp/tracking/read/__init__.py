"""Recorded runs read back, many at a time, as plain types."""
