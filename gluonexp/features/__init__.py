"""What is frozen is computed once: the front of a network that never changes, and its output."""
