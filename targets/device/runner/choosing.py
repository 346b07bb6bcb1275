"""The choice of a runtime: the first that is here and that the bundle has a file for."""

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .backends import Backend
from .base import Absent, Problem, one_line
from .machine import gpu_name
from .manifest import Bundle, ModelEntry, model_for
from .onnxruntime import OnnxRuntime
from .tensorrt import TensorRT
from .trtexec import Trtexec

Json = Dict[str, Any]
"""Values that are printed as JSON."""


class Result(NamedTuple):
    """The result of a command: values for JSON, and lines for a person."""

    values: Json
    lines: Sequence[str]
    exit_code: int = 0
    errors: Sequence[str] = ()


class Runtime(NamedTuple):
    """A way to run a network."""

    kind: str
    """The manifest's name of it."""
    product: str
    make: Callable[[int], Backend]
    """Makes the backend; the number is of the CPU's threads, 0 where the runtime decides."""


RUNTIMES: Dict[str, Runtime] = {
    "tensorrt": Runtime("tensorrt", "TensorRT", lambda threads: TensorRT()),
    "trtexec": Runtime("tensorrt", "TensorRT (trtexec)", lambda threads: Trtexec()),
    "onnxruntime": Runtime("onnxruntime", "ONNX Runtime", OnnxRuntime),
}
"""Runtimes by name, in the order in which they are tried."""


def backend_of(name: str, threads: int = 0) -> Backend:
    """The backend of a runtime. Raises Problem for one that cannot be used here, whatever it raises itself: a broken
    one must not keep the others from being tried."""
    runtime = RUNTIMES[name]
    try:
        return runtime.make(threads)
    except Problem:
        raise
    except Exception as error:
        found = f"{runtime.product} is here and cannot be used ({type(error).__name__}: {one_line(error)})"
        raise Problem(found, "mend what it names, or install it again") from error


class Choice(NamedTuple):
    """The runtime that is taken, and its model."""

    backend: Backend
    model: ModelEntry
    passed_over: List[Tuple[str, Problem]]
    """The kinds of runtimes before it, and why those are not taken."""

    def values(self) -> Json:
        """The choice, as JSON has it."""
        backend = self.backend
        return {
            "runtime": backend.name,
            "version": backend.version,
            "gpu": backend.gpu,
            "model": self.model["file"],
            "passed_over": [problem.found for _, problem in self.passed_over],
        }

    def words(self) -> str:
        """The model and what runs it."""
        backend = self.backend
        where = f"{self.model['file']} in {RUNTIMES[backend.name].product} {backend.version}"
        return where if backend.gpu is None else f"{where} on {backend.gpu}"


def choose(bundle: Bundle, forced: Optional[str], threads: int) -> Choice:
    """The first runtime that is here and that the bundle has a file for. Raises Problem, with the reasons, for none."""
    passed_over: List[Tuple[str, Problem]] = []
    for name in RUNTIMES if forced is None else (forced,):
        try:
            backend = backend_of(name, threads)
            return Choice(backend, model_for(bundle, backend.kind, backend.version), passed_over)
        except Problem as problem:
            passed_over.append((RUNTIMES[name].kind, problem))
    reasons = "; ".join(problem.found for _, problem in passed_over)
    raise Problem(f"no runtime can run this bundle here: {reasons}; `run.py doctor` names remedies.")


def surprises(bundle: Bundle, choice: Choice) -> List[str]:
    """Why runtimes were passed over that a person may have counted on.

    That is one that the bundle has a file for and that is installed. One that is not installed counts only where a GPU
    is, which then stays idle: not on a machine without, nor where TensorRT's other way, trtexec, is taken.
    """
    kinds = {model["runtime"] for model in bundle.manifest["models"]}

    def counted_on(kind: str, problem: Problem) -> bool:
        installed = not isinstance(problem, Absent)
        return kind in kinds and (installed or (kind != choice.backend.kind and gpu_name() is not None))

    return [problem.found for kind, problem in choice.passed_over if counted_on(kind, problem)]
