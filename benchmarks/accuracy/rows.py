"""What a row is, and the CSV files that keep them."""

import csv
import fcntl
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
PROTOCOLS = {"P1": "paper", "P2": "ends8", "P3": "integer"}
"""By the names in docs/accuracy.md, as schemes."""
COLUMNS = (
    "network", "protocol", "bits", "recipe", "seed", "images", "iterations", "steps", "batch", "precision", "test",
    "float", "ranges_only", "fake_quant", "deployed", "agreement", "held_kl", "held_bns_kl", "held_leaves_kl",
    "bn_distance", "intra_class_distance", "integers_compared", "integers_differing", "seconds_images",
    "seconds_training", "hardware", "versions", "commit",
)  # fmt: skip
"""Accuracies and agreements in percent; `test` names the images that all accuracies are of; `precision` is that of the
convolutions that make images, and of the gradients in training."""


@dataclass(frozen=True, slots=True)
class Key:
    """What tells one row from another."""

    network: str
    protocol: str
    weight_bits: int
    activation_bits: int
    recipe: str
    seed: int
    depthwise_bits: int | None = None

    @property
    def bits(self) -> str:
        """As "W4A8", or "W4/8A8" with 8 bits for the weights of depthwise layers."""
        depthwise = "" if self.depthwise_bits is None else f"/{self.depthwise_bits}"
        return f"W{self.weight_bits}{depthwise}A{self.activation_bits}"

    @property
    def command(self) -> str:
        """Makes the row."""
        return f"python benchmarks/accuracy/run.py {self.network} {self.recipe} {self.bits} {self.protocol} {self.seed}"

    def is_of(self, row: dict[str, str]) -> bool:
        """Whether `row` is this key's."""
        mine = (self.network, self.protocol, self.bits, self.recipe, str(self.seed))
        return tuple(row[column] for column in ("network", "protocol", "bits", "recipe", "seed")) == mine


def file_of(network: str) -> Path:
    """The table of one network."""
    return HERE / f"{network}.csv"


def read(path: Path) -> list[dict[str, str]]:
    """All rows of a file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(row: dict[str, object]) -> None:
    """Adds rows as they are made, one for each test set, whatever other processes do."""
    path = file_of(str(row["network"]))
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if not path.stat().st_size:
            writer.writeheader()
        writer.writerow(row)


def commit() -> str:
    """Of this checkout, with a + where files differ from it."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", ":!*.csv"], capture_output=True, text=True, check=False
    )
    return head.stdout.strip() + "+" * bool(changed.stdout.strip())
