"""The typed part of the configuration, and Hydra's private interfaces."""
