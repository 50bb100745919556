"""The proof that an export is the trained network: every runtime, scores, certificate."""
