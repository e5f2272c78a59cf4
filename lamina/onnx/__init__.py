"""The ONNX front end: a file becomes a `Workload`."""
