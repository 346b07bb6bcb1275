"""Fixtures for all tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.program import Program
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.network import FakeQuantNetwork
from intraq_deploy.quantization.scheme import make_scheme

# A test that wants a cache of stages has its own; commands in other processes inherit this.
os.environ["INTRAQ_DEPLOY_CACHE"] = "off"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks of the tests are so small that a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real weights and images: INTRAQ_TEST_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("INTRAQ_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real weights and images in {folder}: set INTRAQ_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def student() -> Callable[..., FakeQuantNetwork]:
    """Makes a fake-quant module of a small network, calibrated, not trained, not settled."""

    def make(
        network: str = "resnet", scheme: str = "integer", weight_bits: int = 4, activation_bits: int = 4, seed: int = 0
    ) -> FakeQuantNetwork:
        graph = trace(small_network(network, seed), SMALL_SHAPE)
        return build_network(graph, make_scheme(scheme, weight_bits, activation_bits), random_images(32), seed)

    return make


@pytest.fixture(scope="session")
def frozen(student: Callable[..., FakeQuantNetwork]) -> Callable[..., tuple[FakeQuantNetwork, Program]]:
    """Makes a settled student and its program."""

    def make(*args: Any, **kwargs: Any) -> tuple[FakeQuantNetwork, Program]:
        module = student(*args, **kwargs)
        settle(module)
        return module, freeze(module)

    return make
