"""Models come in here: a torch module or an ONNX file becomes a canonical graph."""
