"""An export for PyTorch alone: one readable Python file, and its values in safetensors."""
