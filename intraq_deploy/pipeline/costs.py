"""The costs of a network's parts on this machine, measured in a second or so on what is like them.

What is slow for a reason of its own is timed itself: a forward pass, a step of synthesis or of training, the reference
with its comparison. The rest goes by how much of it there is: values whose range is searched, columns that are rounded.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from intraq_deploy.evaluation.parity import compare
from intraq_deploy.graph.ops import Conv2d, Linear
from intraq_deploy.pipeline.run import Run
from intraq_deploy.program.program import Program
from intraq_deploy.program.reference import Reference
from intraq_deploy.quantization.build import empty_network
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.ranges import samples_of, search
from intraq_deploy.quantization.scheme import Scheme
from intraq_deploy.quantization.sensitivity import logits_of
from intraq_deploy.quantization.spec import weight_spec
from intraq_deploy.training.compensation import best_damping, compensated
from intraq_deploy.training.layerwise import MOST_PATCHES
from intraq_deploy.training.moments import Columns, Moments
from intraq_deploy.training.teacher import Teacher

SMALL, LARGE = 64, 8
"""Images per timed pass, for small and for large networks' inputs."""
_SMALL_PIXELS = 64
_VALUES = 1 << 15
_FEW, _MANY, _COLUMNS = 16, 128, 256
"""The rows, and the columns, of the layers whose rounding is timed."""
_PRODUCTS = 2.2
"""How many products of the size K x K x (R + K) the rounding of a layer of R rows and K columns takes; fitted to timed
layers of up to 512 rows and 4,608 columns."""
_PATCHES = 4096
_MOVES = 3.0
"""How many times drawing patches takes what the product of their values takes, for layers of small windows."""


def seconds_of(work: Callable[[], object]) -> float:
    """Returns how long a piece of work takes, in seconds: the shorter time of two, since what else a machine does in
    this second says little about the minutes ahead."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def noise_like(run: Run, count: int) -> Tensor:
    """Returns noise of the size of the run's images, float32 [count, C, H, W]."""
    return torch.randn(count, *run.image_shape, generator=torch.Generator().manual_seed(0))


def images_at_once(run: Run) -> int:
    """Returns how many images a timed pass takes."""
    return SMALL if run.model.input_shape[1] <= _SMALL_PIXELS else LARGE


@dataclass(frozen=True)
class Costs:
    """The seconds that parts of a run take here, each measured when it is first asked for."""

    run: Run
    scheme: Scheme

    @cached_property
    def float_image(self) -> float:
        """Seconds of one image through the float network."""
        teacher = Teacher(self.run.graph).to(self.run.device)
        noise = noise_like(self.run, images_at_once(self.run))
        with torch.no_grad():
            teacher(noise[:1].to(self.run.device))
            return seconds_of(lambda: teacher(noise.to(self.run.device)).cpu()) / len(noise)

    @cached_property
    def quantized_image(self) -> float:
        """Seconds of one image through the fake-quant module."""
        network = empty_network(self.run.graph, self.scheme).to(self.run.device).to(memory_format=torch.channels_last)
        noise = noise_like(self.run, images_at_once(self.run))
        logits_of(network, noise[:1], self.run.device)
        return seconds_of(lambda: logits_of(network, noise, self.run.device)) / len(noise)

    def compared_image(self, program: Program) -> float:
        """Returns the seconds of one image whose integers are all compared with the reference's. program: one of the
        same network."""
        reference = Reference(program)

        def observed(part: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            codes: dict[str, Tensor] = {}

            def observe(name: str, found: Tensor) -> None:
                codes[name] = found.to(torch.int16)

            return reference.run(part, observe), codes

        shape = program.graph.input.shape
        count = max(2, images_at_once(self.run) // 8)
        images = torch.zeros(count, *shape, dtype=torch.float32 if program.normalization is None else torch.uint8)
        compare(program, observed, images[:1], 1)
        return seconds_of(lambda: compare(program, observed, images, count)) / count

    @cached_property
    def calibration(self) -> float:
        """Seconds of finding all ranges of a network, from all of the run's images."""
        placement = place(self.run.graph, self.scheme)
        spec = weight_spec(4)
        values = torch.randn(_VALUES, generator=torch.Generator().manual_seed(0))
        search(values[:1024], spec)
        rate = seconds_of(lambda: search(values, spec)) / _VALUES
        weights = sum(self.run.graph.weights[node.name].weight.numel() for node in self.run.graph.layers())
        searched = samples_of(placement) + weights if self.scheme.ranges == "learned" else 0
        return rate * searched + self.images * self.float_image

    @property
    def images(self) -> int:
        """Number of images that the network is quantized with."""
        own = self.run.calibration
        return self.run.recipe.synthesis.images if own is None else len(own.images)

    @cached_property
    def fitting(self) -> float:
        """Seconds of fitting all layers in closed form."""
        recipe = self.run.recipe.fitting
        images = min(recipe.images, self.images) * (1 + recipe.crops)
        product = self._product(torch.float32)
        column, value, exact = self._rounding_rates if recipe.compensate else (0.0, 0.0, 0.0)
        seconds = images * (self.float_image + self.quantized_image)
        for node in self.run.graph.layers():
            assert isinstance(node.op, Conv2d | Linear)
            columns = Columns(node.op, self.run.graph.weights[node.name].weight.shape)
            groups, values = max(columns.groups, columns.parts), columns.values
            rows = columns.shape[0] // columns.groups
            patches = min(MOST_PATCHES, images * math.prod(node.shape[2:]))
            seconds += patches * groups * values * (values + rows) * product * (1 + _MOVES / math.sqrt(values))
            seconds += column * values + value * groups * rows * values
            seconds += exact * groups * values**2 * (rows + values)
        return seconds

    @cached_property
    def _rounding_rates(self) -> tuple[float, float, float]:
        """Seconds for each column of a layer, for each of its weights, and for each product of them all."""
        self._rounding(_FEW)  # the first call of a solver loads it
        few, many = self._rounding(_FEW), self._rounding(_MANY)
        value = max(0.0, many - few) / ((_MANY - _FEW) * _COLUMNS)
        column = max(0.0, few / _COLUMNS - value * _FEW)
        return column, value, _PRODUCTS * self._product(torch.float64)

    def _product(self, dtype: torch.dtype) -> float:
        """Returns the seconds of one multiplication and addition of a product of matrices."""
        patches = torch.randn(_PATCHES, 2 * _COLUMNS, dtype=dtype, generator=torch.Generator().manual_seed(0))
        patches[:64].mT @ patches[:64]
        return seconds_of(lambda: patches.mT @ patches) / (_PATCHES * (2 * _COLUMNS) ** 2)

    def _rounding(self, rows: int) -> float:
        """Returns the seconds of rounding one layer of so many rows, its damping chosen first."""
        values = _COLUMNS
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(1, rows, values, generator=generator, dtype=torch.float64)
        patches = torch.randn(1, 4 * values, values, generator=generator, dtype=torch.float64)
        covariance = patches.mT @ patches / patches.shape[1]
        mean = torch.zeros(1, values, dtype=torch.float64)
        moments = Moments(covariance, weight @ covariance, mean, torch.zeros(1, rows, dtype=torch.float64))
        importance, spec = torch.ones(1, rows, dtype=torch.float64), weight_spec(4)

        def work() -> None:
            damping = best_damping(weight, [moments, moments], spec, importance, parts=1)
            compensated(weight, moments, spec, damping, parts=1)

        return seconds_of(work)
