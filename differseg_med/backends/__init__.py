"""What computes the network in a prediction: PyTorch, OpenVINO, ONNX Runtime or compiled code, each held against it."""
