"""The network as ONNX, operator set 13."""
