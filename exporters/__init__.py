"""Canonical ONNX graph → files that keep the factors; and the entry each file carries.

``trace`` (PyTorch → canonical graph) is the one module here that needs PyTorch: import
``sepdeploy.exporters.capture.trace`` where a model is at hand.
"""
