"""Networks, and the preprocessing in front of them."""
