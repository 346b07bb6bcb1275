"""A checkpoint, or a name, becomes a `Model`."""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from intraq_deploy.errors import AmbiguousError, ArchitectureError, UnsupportedModelError, UsageError
from intraq_deploy.models import timm_zoo, torchvision_zoo
from intraq_deploy.models.architecture import Architecture, find_architecture
from intraq_deploy.models.builtin import builtin_network
from intraq_deploy.models.checkpoint import Checkpoint, checkpoint_of, read_checkpoint
from intraq_deploy.models.class_names import read_class_names
from intraq_deploy.models.convolutions import first_convolution
from intraq_deploy.models.file_kind import FileKind, file_kind
from intraq_deploy.models.fingerprint import Candidate, find_candidates, nearest_architectures
from intraq_deploy.models.logits import BATCH, return_logits
from intraq_deploy.models.model import Model, Source
from intraq_deploy.models.onnx.check import check_equal
from intraq_deploy.models.onnx.network import OnnxNetwork
from intraq_deploy.models.onnx.reading import OnnxFile, read_onnx
from intraq_deploy.models.preprocessing import resolve_preprocessing
from intraq_deploy.models.shapes import Shapes, shapes_of
from intraq_deploy.models.traits import tell_apart
from intraq_deploy.models.weights import load_weights, refuse_used
from intraq_deploy.wording import reason

logger = logging.getLogger(__name__)

PRETRAINED = {"torchvision": torchvision_zoo.pretrained, "timm": timm_zoo.pretrained}
"""Libraries whose published weights can be the source."""

USUAL_CLASSES = 1000
TRIED_CHANNELS = (3, 1, 4)

SHOWN_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network with its trained weights, before anything is known about its inputs and outputs."""

    module: nn.Module
    architecture: Architecture
    source: Source
    classes: int | None = None
    channels: int | None = None
    """The input channels. They and `classes` are None where the checkpoint does not show them: the module does then."""
    absent: Sequence[str] = ()
    """The tensors of auxiliary heads that the file lacks."""
    file: OnnxFile | None = None
    """The ONNX file that the network was read from."""


def load_model(
    source: str | Path | nn.Module | Mapping[str, Tensor],
    *,
    arch: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Path | Sequence[str] | None = None,
    output: str | int | None = None,
    trust_pickle: bool = False,
    weights: str | None = None,
) -> Model:
    """Loads a trained classifier.

    source: a checkpoint file (.pth/.pt, .safetensors, or .pt2 for its weights), an ONNX file, or published weights
        as "builtin:NAME", "torchvision:NAME" or "timm:NAME"; or a trained network in memory, which is copied, or its
        state_dict.
    arch: "builtin:NAME", "torchvision:NAME", "timm:NAME", "package.module:callable" or
        "path/to/file.py:callable". Without it the architecture is found from the checkpoint's names and
        shapes.
    input_size: pixels, one number or (height, width); the entry's resizing follows in proportion.
    mean, std: per channel, or one value for all, of images scaled to [0, 1].
    classes: class names, or a file with them.
    output: which of a network's several outputs are the logits: a key, a name or an index.
    trust_pickle: run the code in a pickle that holds more than tensors.
    weights: which of several networks in the file: a key of its dictionary, or a prefix of names.

    Returns the model, in eval mode, float32, on the CPU.
    Raises CheckpointError if the weights cannot be read or do not fit; ArchitectureError if the
        architecture is unknown, ambiguous or cannot be built; UsageError for missing or wrong values;
        UnsupportedModelError if the network does not run or returns no logits; DataError for class names
        that do not fit.
    """
    with torch.random.fork_rng(devices=[]):  # weights that are overwritten must not move the caller's seed
        loaded = _load(source, arch, trust_pickle, weights)
    module = loaded.module.eval().float().requires_grad_(False)
    spec = loaded.architecture.spec
    stated = loaded.file.size if loaded.file is not None and input_size is None else None
    input_size = input_size or stated

    channels = loaded.channels or _channels_of(module, spec, _size_of(loaded.architecture, input_size), mean)
    preprocessing = resolve_preprocessing(
        loaded.architecture.preprocessing, channels, spec=spec, input_size=input_size, mean=mean, std=std
    )
    if stated is not None:
        preprocessing = replace(preprocessing, source="the file's size, --mean and --std")
    input_shape = (channels, *preprocessing.input_size)
    count = return_logits(module, input_shape, classes=loaded.classes, output=output)
    if loaded.file is not None:
        check_equal(loaded.file, module, input_shape)
    if loaded.absent:
        tensors = loaded.module.state_dict()
        refuse_used(module, {name: tensors[name] for name in loaded.absent}, input_shape, loaded.source.location)

    names = loaded.architecture.class_names
    if classes is not None:
        names = read_class_names(classes, count)
    elif names is not None and len(names) != count:
        names = None
    return Model(module, spec, channels, count, preprocessing, loaded.source, names)


def _load(
    source: str | Path | nn.Module | Mapping[str, Tensor], arch: str | None, trust_pickle: bool, weights: str | None
) -> Loaded:
    if isinstance(source, nn.Module | Mapping):
        return _from_memory(source, arch, weights)
    if not isinstance(source, str | Path):
        raise UsageError(
            f"The model is of type {type(source).__name__}: give a path, a name such as torchvision:resnet18, an "
            "nn.Module, or a state_dict."
        )
    library, colon, name = str(source).partition(":")
    if colon and not isinstance(source, Path) and library in ("builtin", *PRETRAINED):
        if weights is not None:
            raise UsageError(f"--weights is {weights}, and {source} is no file with several networks; leave it out.")
        if library in PRETRAINED:
            return _from_library(library, name, arch)
        checkpoint = read_checkpoint(builtin_network(name).weights)
        origin = Source("builtin", str(source), checkpoint.sha256)
        return _fit(find_architecture(arch or str(source)), checkpoint, origin)
    path = Path(source)
    if file_kind(path) is FileKind.ONNX:
        return _from_onnx(path, {"--arch": arch, "--weights": weights})
    return _from_file(read_checkpoint(path, trust_pickle=trust_pickle, weights=weights), arch)


def _from_memory(source: nn.Module | Mapping[str, Tensor], arch: str | None, weights: str | None) -> Loaded:
    """A network in memory, copied: what is done to it is not done to the person's."""
    if weights is not None:
        raise UsageError(f"weights is {weights!r}, and the network is in memory: give the one that is meant.")
    if isinstance(source, nn.Module):
        if arch is not None:
            raise UsageError(f"arch is {arch!r}, and the network is in memory: leave it out, or give its state_dict().")
        return _whole_module(copy.deepcopy(source), Source("module", type(source).__qualname__, None))
    return _from_file(checkpoint_of(source), arch)


def _from_onnx(path: Path, given: Mapping[str, str | None]) -> Loaded:
    """A network with its weights from an ONNX file. given: options that such a file does not need."""
    for option, value in given.items():
        if value is not None:
            raise UsageError(
                f"{option} is {value}, but {path} is an ONNX file, which is a whole network; leave it out."
            )
    file = read_onnx(path)
    module = OnnxNetwork(file)
    architecture = Architecture(f"onnx:{path.name}", lambda _classes, _channels: module)
    return Loaded(module, architecture, Source("file", str(path), file.sha256), channels=file.channels, file=file)


def _from_library(library: str, name: str, arch: str | None) -> Loaded:
    """Published weights, through the library's own download and cache."""
    spec = f"{library}:{name}"
    if arch is not None and arch != spec:
        raise UsageError(f"--arch is {arch}, but the weights of {spec} bring their own architecture; leave --arch out.")
    architecture = find_architecture(spec)
    try:
        module = PRETRAINED[library](name)
    except Exception as error:  # downloads fail in many ways, none of them ours
        raise ArchitectureError(
            f"the published weights of {spec} could not be downloaded ({reason(error)}); "
            f"give a checkpoint file and --arch {spec}."
        ) from error
    return Loaded(module, architecture, Source(library, spec, None))


def _from_file(checkpoint: Checkpoint, arch: str | None) -> Loaded:
    path = checkpoint.path
    origin = Source("module" if checkpoint.sha256 is None else "file", str(path), checkpoint.sha256)
    if arch is not None:
        return _fit(find_architecture(arch), checkpoint, origin)
    if checkpoint.module is not None:
        return _whole_module(checkpoint.module, origin)

    shapes = shapes_of(checkpoint.tensors)
    candidates = find_candidates(shapes)
    if not candidates:  # a part of the file may be one
        candidates = [each for part in checkpoint.parts().values() for each in find_candidates(shapes_of(part.tensors))]
    candidate = _single(path, shapes, candidates)
    logger.info("%s is a %s for %d classes", path, candidate.spec, candidate.classes)
    return _fit(find_architecture(candidate.spec), checkpoint, origin, (candidate.classes, candidate.channels))


def _fit(
    architecture: Architecture,
    checkpoint: Checkpoint,
    origin: Source,
    counts: tuple[int | None, int] | None = None,
) -> Loaded:
    """Builds the architecture for the checkpoint's class and channel counts, and loads the weights."""
    classes, channels = counts or _counts(architecture, checkpoint)
    # Where the class count does not show, comparing the tensors says what differs.
    module = architecture.make(classes or USUAL_CLASSES, channels)
    absent = load_weights(module, checkpoint, architecture.spec)
    return Loaded(module, architecture, origin, classes, channels if architecture.any_channels else None, absent)


def _counts(architecture: Architecture, checkpoint: Checkpoint) -> tuple[int | None, int]:
    """The class count and the input channels that the tensors show, under the first names under which they do: a
    network with a part called "model" has the names that wrappers add, or the network is a part of the file."""
    parts = (part.tensors for part in checkpoint.parts().values())
    return architecture.counts(*map(shapes_of, (checkpoint.tensors, checkpoint.original, *parts)))


def _whole_module(module: nn.Module, origin: Source) -> Loaded:
    """A pickled network is its own architecture."""
    kind = type(module)
    spec = f"{kind.__module__}:{kind.__qualname__}"
    return Loaded(module, Architecture(spec, lambda _classes, _channels: module), origin)


def _single(path: Path, shapes: Shapes, candidates: list[Candidate]) -> Candidate:
    """The only candidate. Raises ArchitectureError for several or none."""
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ArchitectureError(_unknown(path, shapes))

    differences = tell_apart({candidate.spec: candidate.traits for candidate in candidates})
    shown = [f"{spec} ({words})" if words else spec for spec, words in list(differences.items())[:SHOWN_CANDIDATES]]
    more = f" and {len(candidates) - len(shown)} more" if len(candidates) > len(shown) else ""
    alike = "" if any(differences.values()) else ", and nothing known tells them apart"
    raise AmbiguousError(
        f"{path} has exactly the tensors of {len(candidates)} architectures{alike}; give --arch one of: "
        f"{'; '.join(shown)}{more}.",
        list(differences)[:SHOWN_CANDIDATES],
    )


def _unknown(path: Path, shapes: Shapes) -> str:
    near = ", ".join(
        f"{spec} (about {min(share, 0.99):.0%} of the tensors alike)" for spec, share in nearest_architectures(shapes)
    )
    first = next(iter(shapes), None)
    example = f", the first {first} {list(shapes[first])}" if first is not None else ""
    return (
        f"{path} has the tensors of no known architecture ({len(shapes)} of them{example}); the nearest: "
        f"{near or 'none'}; give --arch, for your own code path/to/file.py:callable."
    )


def _size_of(architecture: Architecture, given: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of the images, as given, or as the architecture's entry has them; None where neither says."""
    if given is None:
        return None if architecture.preprocessing is None else architecture.preprocessing.input_size
    return (given, given) if isinstance(given, int) else given


def _channels_of(module: nn.Module, spec: str, size: tuple[int, int] | None, mean: Sequence[float] | None) -> int:
    """The number of channels with which the network runs: that of the means, its first convolution's, or a usual one.

    The first convolution that is registered need not be the first that runs, and may read more than the image: what
    PixelUnshuffle or a concatenation makes of it. Where nothing runs it is taken; running it again says why.
    """
    found = first_convolution(module)
    if found is None:
        raise UnsupportedModelError(
            f"{spec} has no 2-d convolution, so the channels of its images are unknown; only convolutional "
            "image classifiers are supported."
        )
    first = found[1].in_channels
    given = [len(mean)] if mean is not None and len(mean) > 1 else []
    tried = dict.fromkeys((*given, first, *TRIED_CHANNELS))
    return next((channels for channels in tried if size is not None and _runs(module, (channels, *size))), first)


def _runs(module: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        with torch.no_grad():
            module(torch.zeros(BATCH, *shape))
    except Exception:  # a forward may refuse images in any way
        return False
    return True
