"""The PyTorch engine: the network that Gluon defines, lowered once and trained by PyTorch."""
