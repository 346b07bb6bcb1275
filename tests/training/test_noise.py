"""Signal to noise, against its definition."""

import math

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.training.noise import signal_to_noise
from intraq_deploy.training.teacher import Teacher


def student_and_teacher(bits):
    graph = trace(small_network("resnet"), SMALL_SHAPE)
    images = random_images(8)
    student = build_network(graph, make_scheme("integer", bits, bits), images, 0)
    return student, Teacher(graph), images


def test_it_is_the_ratio_of_sums_of_squares():
    student, teacher, images = student_and_teacher(4)
    found = signal_to_noise(student, teacher, images)
    on_grids = {node.name for node in student.graph.nodes if student.placement.grid(node.name) is not None}
    assert found.keys() == on_grids
    with torch.no_grad():
        expected = teacher.features(images, ["conv1"])[1]["conv1"].double()
        error = expected - student.features(images, ["conv1"])[1]["conv1"]
    assert found["conv1"] == pytest.approx(10 * math.log10(expected.square().sum() / error.square().sum()), abs=1e-3)


def test_a_bit_more_is_six_decibels():
    few, many = (signal_to_noise(*student_and_teacher(bits)) for bits in (4, 6))
    assert 9 < many["conv1"] - few["conv1"] < 15


def test_equal_tensors_have_no_ratio():
    student, teacher, images = student_and_teacher(4)
    assert signal_to_noise(student, teacher, 0 * images)["image"] is None
