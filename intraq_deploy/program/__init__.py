"""The network in integers: settling, freezing, the exact reference, storage."""

from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.program import Grid, Normalization, Program, Tolerance
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.settle import Adjustment, settle
from intraq_deploy.program.storage import load_program, save_program

__all__ = [
    "Adjustment",
    "Grid",
    "Normalization",
    "Program",
    "Reference",
    "Tolerance",
    "float_program",
    "freeze",
    "load_program",
    "save_program",
    "settle",
]
