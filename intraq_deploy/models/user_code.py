"""The user's own architecture: a callable in a module or in a file.

"package.module:callable" is imported as Python does, with the current folder importable;
"path/to/file.py:callable" is imported from that path, with the file's folder importable. The callable takes
no arguments, or `num_classes`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from intraq_deploy.errors import ArchitectureError
from intraq_deploy.wording import nearest, reason

CLASSES_ARGUMENT = "num_classes"


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """A callable that builds the user's network."""

    spec: str
    folder: Path
    """A folder whose modules can be imported while the network is built."""
    function: Callable[..., Any]
    takes_classes: bool
    takes_anything: bool = False
    """Whether the callable has **kwargs: `num_classes` is then tried first."""

    def build(self, classes: int, _channels: int) -> nn.Module:
        """Calls the person's callable. Raises ArchitectureError if it fails or returns no module."""
        try:
            with importable(self.folder):
                module = self._call(classes)
        except (Exception, SystemExit) as error:  # the user's code may fail in any way
            raise ArchitectureError(
                f"--arch {self.spec} failed when it was called ({reason(error)}); correct it, or name another callable."
            ) from error
        if not isinstance(module, nn.Module):
            raise ArchitectureError(
                f"--arch {self.spec} returned a {type(module).__name__}; it must return a torch.nn.Module."
            )
        tensors = [*module.named_parameters(), *module.named_buffers()]
        if unknown := next((name for name, tensor in tensors if is_lazy(tensor)), None):
            raise ArchitectureError(
                f"--arch {self.spec} has lazy layers, whose sizes show in the first forward (the first: {unknown}); "
                "run one in the callable, as in network(torch.zeros(1, 3, 224, 224)), before it returns the network."
            )
        return module

    def _call(self, classes: int) -> Any:
        if not self.takes_classes:
            return self.function()
        try:
            return self.function(**{CLASSES_ARGUMENT: classes})
        except TypeError as error:
            if self.takes_anything and CLASSES_ARGUMENT in str(error):
                return self.function()
            raise


def user_network(spec: str) -> UserNetwork:
    """Finds the callable of "package.module:callable" or "path/to/file.py:callable".

    Raises ArchitectureError if the module or the callable cannot be found, or needs other arguments.
    """
    place, _, name = spec.rpartition(":")
    from_file = place.endswith(".py")
    folder = Path(place).resolve().parent if from_file else Path.cwd()
    with importable(folder):
        module = _import_file(Path(place), spec) if from_file else _import_module(place, spec)

    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            own = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
            raise ArchitectureError(f"{place} has no {name!r} for --arch {spec}; {nearest(name, own)}.")
        found = getattr(found, part)

    if isinstance(found, nn.Module):
        return UserNetwork(spec, folder, lambda: deepcopy(found), takes_classes=False)
    if not callable(found):
        raise ArchitectureError(
            f"--arch {spec} names a {type(found).__name__}; it must name a function or class that makes the network."
        )
    named, anything = _takes_classes(found, spec)
    return UserNetwork(spec, folder, found, named or anything, takes_anything=anything)


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Makes the modules in `folder` importable inside the block."""
    entry = str(folder)
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the imported code may have edited sys.path itself
            sys.path.remove(entry)


def _import_file(path: Path, spec: str) -> ModuleType:
    if not path.is_file():
        raise ArchitectureError(f"{path} of --arch {spec} does not exist; give path/to/file.py:callable.")
    # A name of its own: the file may be called like an installed package.
    name = f"intraq_deploy_arch_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and tracing look their module up there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may fail in any way
        del sys.modules[name]
        if isinstance(error, ImportError) and "relative import" in str(error):
            raise ArchitectureError(
                f"{path} of --arch {spec} imports from its own package ({reason(error)}); run from the folder that "
                f"contains the package, and give --arch PACKAGE.{path.stem}:{spec.rpartition(':')[2]}."
            ) from error
        raise ArchitectureError(
            f"{path} of --arch {spec} cannot be imported ({reason(error)}); correct it, or "
            "make what it imports installable or place it in the same folder."
        ) from error
    return module


def _import_module(name: str, spec: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code may fail in any way
        raise ArchitectureError(
            f"the module {name!r} of --arch {spec} cannot be imported ({reason(error)}); "
            "install it, run from the folder that contains it, or give path/to/file.py:callable."
        ) from error


def _takes_classes(function: Callable[..., Any], spec: str) -> tuple[bool, bool]:
    """Whether `num_classes` is a parameter, and whether **kwargs may take it instead.

    Raises ArchitectureError if other arguments are required.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False, False  # a builtin without a signature is called without arguments

    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and parameter.kind not in optional and name != CLASSES_ARGUMENT
    ]
    if required:
        raise ArchitectureError(
            f"--arch {spec} needs the arguments {', '.join(required)}; name a callable that takes none, or "
            f"only {CLASSES_ARGUMENT} (write a small function around it)."
        )
    named = CLASSES_ARGUMENT in parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return named, not named and inspect.Parameter.VAR_KEYWORD in kinds
