"""Pretrained parameters: where they come from, and how foreign files are read and renamed."""
