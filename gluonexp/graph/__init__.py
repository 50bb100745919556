"""A network's operators as one plain value, and its way to MXNet and back."""
