"""Data sets: where they come from, how they are split, batched, augmented and fingerprinted."""
