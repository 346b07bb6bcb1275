#!/usr/bin/env python3
"""Builds, checks, times and runs the network of this folder, with what the device has.

One file, for Python 3.8 or newer and numpy; `doctor` needs no numpy. Nothing is downloaded or installed. The network
runs in TensorRT (its Python bindings, or trtexec) or in ONNX Runtime's CPU provider.

    python3 run.py doctor              what is here, what is missing, and the remedy
    python3 run.py build               TensorRT's engines for this GPU, kept in cache/; ONNX Runtime needs none
    python3 run.py check               compares the integers that are computed here with those that must come out
    python3 run.py bench               how long one batch takes
    python3 run.py classify IMAGE...   the five likeliest classes
    python3 run.py predict             classes of what comes on standard input, as the network takes it, image by image

Exit codes: 0 done, 1 error, 2 usage, 3 the check found a difference that may not be.
"""

import sys

if sys.version_info < (3, 8):  # noqa: UP036
    sys.exit("Error: this is Python %d.%d: run it with Python 3.8 or newer." % sys.version_info[:2])  # noqa: UP031

if __name__ == "__main__" and not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # this folder: nothing in it is a module, and a file that says so is not verified yet
