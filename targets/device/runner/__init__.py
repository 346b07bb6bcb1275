"""The program that runs a bundle on a device: Python 3.8, its standard library and numpy, nothing else of this package.

`intraq_deploy.targets.device.join` makes one file of these modules, `run.py`. What building on this machine needs too
(TensorRT's versions, its builder, trtexec, nvidia-smi) is imported from here.
"""
