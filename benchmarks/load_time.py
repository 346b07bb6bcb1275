"""How long ONNX Runtime takes to open a model, by how its weights are stored, and how large the file is: docs/size.md.

    python benchmarks/load_time.py

ResNet-18, MobileNetV2 and ResNet-20 with random weights, W4A4, scheme integer: the float network, the same integers in
bytes and in four bits. Sessions on one thread, opened in turn; medians. About 4 minutes on two CPU cores, half of them
to settle the networks.
"""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import onnxruntime
import torch
import torchvision

from intraq_deploy import load_model
from intraq_deploy.evaluation.latency import interleaved, medians
from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.run import machine
from intraq_deploy.program.freeze import float_program, freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support import random_images, realistic

ROUNDS, SECONDS = 1000, 30.0
"""Of opening, for each network."""
FOUR_BITS = load_profile("onnxruntime")
BYTES = FOUR_BITS.model_copy(
    update={"passes": tuple(p for p in FOUR_BITS.passes if p not in ("packed-weights", "implied-parameters"))}
)


def network(name):
    """Module, input shape, and what the file says of the classes."""
    if name == "resnet20":
        return load_model("builtin:resnet20-cifar10").module, (3, 32, 32), {}
    shape = (3, 224, 224)
    classes = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    return realistic(getattr(torchvision.models, name)(), shape), shape, {"classes": json.dumps(classes)}


def open_session(path):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])


def main() -> None:
    print(f"{machine()}; ONNX Runtime {onnxruntime.__version__}, torch {torch.__version__}")
    for name in ("resnet18", "mobilenet_v2", "resnet20"):
        torch.manual_seed(0)
        module, shape, metadata = network(name)
        graph = trace(module, shape)
        student = build_network(graph, make_scheme("integer", 4, 4), random_images(8, shape), 0)
        settle(student)
        program = freeze(student)
        stored = {
            "float32": (float_program(graph), FOUR_BITS),
            "INT8": (program, BYTES),
            "INT4": (program, FOUR_BITS),
        }
        with tempfile.TemporaryDirectory() as folder:
            artifacts = {}
            for form, (written, profile) in stored.items():
                (Path(folder) / form).mkdir()
                artifacts[form] = export(written, profile, Path(folder) / form, metadata)
            openers = {form: partial(open_session, str(artifact.path)) for form, artifact in artifacts.items()}
            times = medians(interleaved(openers, ROUNDS, SECONDS, threads=1))
        for form, artifact in artifacts.items():
            print(
                f"{name} {form}: {artifact.bytes:,} bytes, opened in {times[form]:.1f} ms; {artifact.items}", flush=True
            )


if __name__ == "__main__":
    main()
