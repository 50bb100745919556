"""The files of a model folder: their names, and how each is read without trusting it."""
