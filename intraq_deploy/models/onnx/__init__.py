"""ONNX files as a source of networks.

A file becomes a torch module that computes the same: everything behind loading then treats it like any other network.
"""
