"""Which rows each table has, by seed, in the order in which they are made."""

from collections.abc import Callable

from rows import Key

CIFAR10, CIFAR100 = "resnet20_cifar10", "resnet20wide_stem_cifar100"
IMAGENET = ("mobilenetv1_w075_imagenet", "mobilenetv2_w1_imagenet", "efficientnet_lite0_imagenet")
COMPARED = (CIFAR10, CIFAR100)
"""Where steps of a recipe are compared, and held images are made for it."""

IMAGES = (
    "noise", "bns", "bns-mdc", "bns-sil", "bns-lor", "intraq", "intraq-120", "bounded", "low-pass", "swing",
    "relative", "relative-bounded", "real",
)  # fmt: skip
"""One way of making images each, one way of training."""
TRAINING = (
    "intraq-paper", "intraq-paper-learned", "train-adamw", "train-kl", "train-mixup", "intraq", "train-features",
    "train-gate", "train-average", "train-freeze", "train-equalize", "train-reconstruct",
)  # fmt: skip
"""One set of images, one way of training each."""
_BEFORE_IMAGES = {
    "bns": "noise",
    "intraq": "bns",
    "intraq-120": "intraq",
    "bounded": "intraq",
    "low-pass": "intraq",
    "swing": "low-pass",
    "relative": "low-pass",
    "relative-bounded": "relative",
}
_BEFORE_TRAINING = {
    "intraq-paper-learned": "intraq-paper", "train-adamw": "intraq-paper-learned", "train-kl": "train-adamw",
    "train-mixup": "train-kl", "intraq": "train-mixup", "train-features": "intraq",
}  # fmt: skip

MAIN = ("noise", "bns", "intraq-paper", "best")
MAIN_BITS = ("W5A5", "W4A4", "W3A3", "W4A8")
PRESETS = ("quick", "standard", "best")
STATIC = ("ranges", "static")
"""8 bits without training: ours, and ONNX Runtime's quantize_static with the same images."""
TRIALS = ("best-float32", "best-bounded", "best-bounded-120", "best-corrected")
"""What `best` could be, and the same `best` beside it in one precision."""
IMAGENET_RECIPES = ("imagenet-corrected", "quick", "imagenet-fitted", "standard", "imagenet-real")
"""`quick` and the last have images of their own; the others share one set, and each does more than the one before."""
IMAGENET_TESTS = ("imagenet_sample1000_256", "ilsvrc12_val500_10cls")
IMAGENET_GOALS = {
    "mobilenetv1_w075_imagenet": {"W4A8": (4, 2), "W4A4": (15, 9)},
    "mobilenetv2_w1_imagenet": {"W4A8": (3, 2), "W4A4": (12, 8)},
    "efficientnet_lite0_imagenet": {"W4A8": (3, 2), "W4A4": (8, 5)},
}
"""Points lost on each set of test images, at most: without data, P3, an hour on two cores."""


def before_image(recipe: str) -> str | None:
    """What a way of making images is compared with."""
    return "bns" if recipe.startswith("bns-") else _BEFORE_IMAGES.get(recipe)


def before_training(recipe: str) -> str | None:
    """What a way of training is compared with: each step behind features stands alone on it."""
    return _BEFORE_TRAINING.get(recipe, "train-features" if recipe.startswith("train-") else None)


def _ablation(seed: int) -> list[Key]:
    recipes = dict.fromkeys(("intraq", "noise", "real", "bns", *TRAINING, *IMAGES))
    return [Key(CIFAR10, "P3", bits, bits, recipe, seed) for recipe in recipes for bits in (3, 4)]


def _main(network: str, seed: int) -> list[Key]:
    widths = [(4, 4), (3, 3)] if seed else [(4, 4), (3, 3), (5, 5), (4, 8)]
    return [Key(network, p, w, a, recipe, seed) for w, a in widths for recipe in MAIN for p in ("P1", "P3")]


def _imagenet(seed: int) -> list[Key]:
    widths = ((4, 4), (4, 8))
    rows = [Key(network, "P3", w, a, "quick", seed) for network in IMAGENET for w, a in widths]
    if seed:
        return rows
    rows += [
        Key(network, "P3", w, a, recipe, seed)
        for network in IMAGENET
        for recipe in IMAGENET_RECIPES
        if recipe != "quick"
        for w, a in widths
    ]
    rows += [Key(network, "P3", 4, 8, "imagenet-fitted", seed, depthwise_bits=8) for network in IMAGENET]
    beside = (("P3", 8, 4), ("P2", 4, 4), ("P3", 8, 8), ("P3", 3, 3), ("P1", 4, 4))
    return rows + [Key(network, p, w, a, "quick", seed) for network in IMAGENET for p, w, a in beside]


TABLES: dict[str, Callable[[int], list[Key]]] = {
    "ablation": _ablation,
    "cifar10": lambda seed: _main(CIFAR10, seed),
    "cifar100": lambda seed: _main(CIFAR100, seed),
    "imagenet": _imagenet,
    "trials": lambda seed: [Key(n, "P3", 4, 4, recipe, seed) for n in (CIFAR10, CIFAR100) for recipe in TRIALS],
    "presets": lambda seed: [Key(CIFAR10, "P3", bits, bits, recipe, seed) for recipe in PRESETS for bits in (4, 3)],
    "static": lambda seed: [Key(n, "P3", 8, 8, recipe, seed) for n in (CIFAR10, CIFAR100) for recipe in STATIC],
}
