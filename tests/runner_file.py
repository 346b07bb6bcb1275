"""run.py as a bundle has it: the runner's modules joined, imported as one module `device`."""

import importlib.util
import tempfile
from pathlib import Path

from intraq_deploy.targets.device.join import runner

with tempfile.TemporaryDirectory() as _folder:
    _path = Path(_folder) / "run.py"
    _path.write_text(runner())
    _spec = importlib.util.spec_from_file_location("run_on_device", _path)
    device = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(device)
