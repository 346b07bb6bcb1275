"""Fixtures for the tests of labelled images."""

from collections.abc import Callable

import pytest
from torch import nn

from intraq_deploy.models.model import Model, Preprocessing, Source


@pytest.fixture
def make_model() -> Callable[..., Model]:
    """A model whose network is never run: only what it says about its inputs and classes matters."""

    def make(
        classes: int = 3,
        channels: int = 3,
        size: tuple[int, int] = (8, 8),
        names: tuple[str, ...] | None = None,
        **preprocessing: object,
    ) -> Model:
        return Model(
            module=nn.Identity(),
            architecture="test:net",
            channels=channels,
            classes=classes,
            preprocessing=Preprocessing(size, (0.5,) * channels, (0.25,) * channels, **preprocessing),
            source=Source("file", "net.pth", None),
            class_names=names,
        )

    return make
