"""ONNX Runtime's CPU provider."""

from pathlib import Path
from typing import Any, Dict, Optional

from .arrays import Array
from .backends import imported
from .base import INPUT, OUTPUT, Problem, one_line
from .manifest import Bundle, ModelEntry, onnx_bytes
from .timing import Measured, measured


class OnnxRuntime:
    """ONNX Runtime's CPU provider, as a Backend."""

    name = kind = "onnxruntime"

    def __init__(self, threads: int = 0) -> None:
        """threads: how many of the CPU's; 0: ONNX Runtime decides."""
        self._module = imported("onnxruntime", "ONNX Runtime is not installed", "pip install onnxruntime")
        self._threads = threads
        self.version = str(self._module.__version__)
        self.gpu: Optional[str] = None

    def prepare(self, bundle: Bundle, model: ModelEntry, cache: Path, with_codes: bool) -> "OnnxRuntimeSession":
        settings = self._module.SessionOptions()
        settings.log_severity_level = 3
        settings.intra_op_num_threads = self._threads
        data = onnx_bytes(bundle, model, with_codes)
        try:
            session = self._module.InferenceSession(data, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions are not public
            raise Problem(f"ONNX Runtime {self.version} refuses {model['file']}: {one_line(error)}.") from error
        return OnnxRuntimeSession(session)


class OnnxRuntimeSession:
    """An opened ONNX file."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._names = [output.name for output in session.get_outputs()]

    def run(self, images: Array) -> Dict[str, Array]:
        return dict(zip(self._names, self._session.run(None, {INPUT: images})))

    def measured(self, images: Array, runs: int) -> Measured:
        return measured(lambda: self._session.run([OUTPUT], {INPUT: images}), runs)
