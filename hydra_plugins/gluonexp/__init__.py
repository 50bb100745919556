"""What Hydra finds of gluonexp by itself: its launcher and its sweepers."""
