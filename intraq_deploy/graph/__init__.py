"""The traced network: a closed set of operators, shared by quantization, the Program and every target."""
