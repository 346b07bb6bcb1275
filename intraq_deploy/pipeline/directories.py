"""Which directory a run gets: its own, so that no finished run is replaced unless somebody says so."""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from intraq_deploy.errors import RunError
from intraq_deploy.pipeline.options import MADE_FOR, QuantizeOptions, RunConfig, read_config
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import CONFIG, UNFINISHED, RunDirectory, hash_of, unfinished
from intraq_deploy.pipeline.stages import images_inputs

_SUFFIXES = (".pth", ".pt", ".pt2", ".safetensors", ".onnx")


def config_of(run: Run, *, images_only: bool = False) -> RunConfig:
    """Returns the record with which the run can be opened again. images_only: nothing but images is asked for."""
    return RunConfig(
        weights_sha256=run.weights_sha256,
        folder=str(Path.cwd()),
        options=run.options,
        images=hash_of(**images_inputs(run)),
        configuration=None if images_only else hash_of(**_configuration(run)),
    )


def choose_directory(run: Run, *, out: Path | None, overwrite: bool = False, images_only: bool = False) -> RunDirectory:
    """Returns the directory in which a run is made. Its home is `out`; where that is None, the first of runs/NAME,
    runs/NAME-2, ... that holds no other run. overwrite: whatever run the home holds may be replaced.

    Raises RunError for one that holds another run.
    """
    config = config_of(run, images_only=images_only)
    if out is not None or overwrite:
        path = out or Path("runs") / default_name(run.options, images_only=images_only)
        other = None if overwrite else _other_run(path, config)
        if other is not None:
            raise RunError(
                f"{path} holds {other}: give another directory with --out, or replace what it holds with --overwrite."
            )
        return unfinished(path)
    name = default_name(run.options, images_only=images_only)
    numbered = (Path("runs") / (name if number == 1 else f"{name}-{number}") for number in itertools.count(1))
    return unfinished(next(path for path in numbered if _other_run(path, config) is None))


def default_name(options: QuantizeOptions, *, images_only: bool = False) -> str:
    """Returns `NAME-wXaY` with what is not as usual: the scheme, the recipe, the target, the seed.

    In mixed precision the budget stands for the weights' bits, as in "average-bits5a4". images_only: `NAME-images`.
    """
    source = options.model.source
    name = Path(source.partition(":")[2] or source).name
    stem = name.rsplit(".", 1)[0] if name.endswith(_SUFFIXES) else name
    recipe = Path(options.recipe_name).stem
    unusual = [recipe] if recipe != "quick" else []
    if not images_only:
        unusual = [options.scheme] * (options.scheme != "integer") + unusual + ["ptq"] * (options.method == "ptq")
        unusual += [options.targets[0]] * (len(options.targets) == 1 and options.made_for != MADE_FOR)
    unusual += [f"seed{options.seed}"] * (options.seed != 0)
    return "-".join([stem, "images" if images_only else _bits(options), *unusual])


def _bits(options: QuantizeOptions) -> str:
    if options.mixed is None:
        weights = f"w{options.weight_bits}"
    else:
        weights = "{}{:g}".format(*options.mixed.budget).removeprefix("--")
    if options.depthwise_bits is not None:
        weights += f"-depthwise{options.depthwise_bits}"
    return f"{weights}a{options.activation_bits}"


def _other_run(path: Path, asked: RunConfig) -> str | None:
    """Returns what a directory holds, where that is another run than the one that is asked for; else None."""
    for folder, what in ((path, "a run"), (path / UNFINISHED, "an unfinished run")):
        if not (folder / CONFIG).exists():
            continue
        kept = read_config(folder / CONFIG)
        if kept.weights_sha256 != asked.weights_sha256:
            return f"{what} of another network ({kept.options.model.source})"
        if not goes_on(asked, kept):
            return f"{what} with other options{_differences(kept.options, asked.options)}"
        if what == "a run":
            return None
    return None


def kept_before(run: Run, asked: RunConfig) -> RunConfig | None:
    """Returns the configuration of the finished run that this one takes the place of, where it has the same options."""
    home = run.directory.home
    if home is None or not (home.path / CONFIG).exists():
        return None
    kept = read_config(home.path / CONFIG)
    return kept if kept.configuration == asked.configuration else None


def goes_on(asked: RunConfig, kept: RunConfig) -> bool:
    """Whether the run that is asked for is the one that is kept, or begins with its images."""
    images_alone = kept.configuration is None and kept.images == asked.images
    return images_alone or kept.configuration == asked.configuration


def _differences(kept: QuantizeOptions, asked: QuantizeOptions) -> str:
    """Returns the options that differ as they are kept, in brackets; nothing where it is a file that has changed."""
    before, now = _told(kept), _told(asked)
    different = [f"{name.replace('_', ' ')} {_text(before[name])}" for name in before if before[name] != now.get(name)]
    return f" ({', '.join(different)})" if different else ""


def _told(options: QuantizeOptions) -> dict[str, Any]:
    """Returns the options that tell one run from another, by the names that a person knows."""
    network = options.model.model_dump(exclude={"source", "trust_pickle"})
    others = options.model_dump(exclude={"model", "eval", "own_targets", "recipe", "preset", "device"})
    return {"preset" if options.recipe is None else "recipe": options.recipe_name, **others, **network}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key} {_text(each)}" for key, each in value.items() if each is not None)
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value)


def _configuration(run: Run) -> dict[str, Any]:
    """Returns everything that decides the program and the files, but for versions."""
    options, preprocessing = run.options, run.model.preprocessing
    asked = options.model_dump(
        include={"weight_bits", "depthwise_bits", "activation_bits", "scheme", "input", "mixed", "made_for", "seed"}
    )
    return asked | {
        "images": images_inputs(run),
        "pixels": [preprocessing.mean, preprocessing.std],
        "shape": run.model.input_shape,
        "recipe": asdict(run.recipe),
        "targets": sorted(options.targets),
        "own": [profile.model_dump() for profile in options.own_targets if profile.name in options.targets],
    }
