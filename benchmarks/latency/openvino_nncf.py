"""Times OpenVINO in float32 and in NNCF's INT8 beside ONNX Runtime, in an environment of its own: run.py starts it.

    PYTHON benchmarks/latency/openvino_nncf.py FOLDER --batch 1 --threads 1 --rounds 100 --seconds 60 --out TIMES.npz

FOLDER: of models.py. Writes milliseconds of each model in each round, from one interleaved loop.
"""

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import nncf
import numpy as np
import onnxruntime
import openvino
from measure import OthersCores, interleaved, onnxruntime_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    calibration = np.load(args.folder / "images.npy")
    images = calibration[: args.batch]
    float32 = args.folder / "float32-torch.onnx"
    int8 = args.folder / "openvino-int8.xml"
    if not int8.exists():
        # The saved file keeps the dynamic batch; NNCF calibrates image by image.
        dataset = nncf.Dataset([image[None] for image in calibration])
        model = openvino.Core().read_model(float32)
        openvino.save_model(nncf.quantize(model, dataset, subset_size=len(calibration)), int8, compress_to_fp16=False)
    models = {
        "float32": onnxruntime_model(float32, images, args.threads),
        "quantize_static": onnxruntime_model(args.folder / "quantize_static.onnx", images, args.threads),
        "OpenVINO float32": openvino_model(float32, images, args.threads),
        "OpenVINO NNCF INT8": openvino_model(int8, images, args.threads),
    }
    with OthersCores() as others:
        times = interleaved(models, args.rounds, args.seconds, args.threads)
    named = f"openvino {openvino.__version__}, nncf {version('nncf')}, onnxruntime {onnxruntime.__version__}"
    np.savez(args.out, _versions=named, _others=others.mean, **times)


def openvino_model(path: Path, images: np.ndarray, threads: int) -> Callable[[], object]:
    """Runs the model once on `images`, its shape fixed to theirs."""
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(images.shape))
    settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    # CPUs with AMX or AVX512-BF16 would compute in bfloat16.
    request = core.compile_model(model, "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    return lambda: request.infer([images], share_inputs=True, share_outputs=True)


if __name__ == "__main__":
    main()
