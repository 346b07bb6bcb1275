"""Writes the tables of docs/accuracy.md from the CSV files.

    python benchmarks/accuracy/table.py

Text outside the markers is left as it is. A gain is the mean over seeds of row minus row; it is called not separated
where it is no greater than the spread (maximum minus minimum over seeds) of either row. With one seed there is none to
tell by.
"""

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import plan
import rows

from intraq_deploy.recipes import read as read_recipe

ROOT = Path(__file__).parents[2]
SEEDS = 3
"""What a cell has where it does not say otherwise."""
PAGE = ROOT / "docs" / "accuracy.md"


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement over seeds, in points below float top-1."""

    drops: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.drops) / len(self.drops)

    @property
    def spread(self) -> float:
        return max(self.drops) - min(self.drops)

    def __str__(self) -> str:
        if len(self.drops) == 1:
            return f"{self.mean:.2f} (1 seed)"
        few = f"{len(self.drops)} seeds, " if len(self.drops) < SEEDS else ""
        return f"{self.mean:.2f} ({few}{min(self.drops):.2f} to {max(self.drops):.2f})"


def cell(found: Iterable[Mapping[str, str]], column: str) -> Cell:
    """Of rows, one for each seed."""
    return Cell(tuple(float(row["float"]) - float(row[column]) for row in found))


class Measured:
    """Every row of every CSV file."""

    def __init__(self) -> None:
        self.rows = [row for path in sorted(rows.HERE.glob("*.csv")) for row in rows.read(path)]

    def of(self, network: str, recipe: str, bits: str, protocol: str, test: str | None = None) -> list[dict[str, str]]:
        """By seed, on the network's first test set unless another is named."""
        wanted = (network, recipe, bits, protocol)
        found = [r for r in self.rows if (r["network"], r["recipe"], r["bits"], r["protocol"]) == wanted]
        name = test or (found[0]["test"] if found else "")
        return [row for row in found if row["test"] == name]

    def drop(
        self, network: str, recipe: str, bits: str, protocol: str, column: str = "deployed", test: str | None = None
    ) -> Cell | None:
        """None where nothing was measured."""
        found = [row for row in self.of(network, recipe, bits, protocol, test) if row[column]]
        return cell(found, column) if found else None


def gain(before: Cell | None, after: Cell | None) -> str:
    """What a step gave, in points."""
    if before is None or after is None:
        return ""
    difference = before.mean - after.mean
    if min(len(before.drops), len(after.drops)) < 2:
        return f"{difference:+.2f}"
    apart = abs(difference) > max(before.spread, after.spread)
    return f"{difference:+.2f}" if apart else f"{difference:+.2f}, not separated"


def about(recipe: str) -> str:
    path = rows.HERE / "recipes" / f"{recipe}.toml"
    return read_recipe(path).description if path.exists() else recipe


def text(cell: object | None) -> str:
    return "not measured" if cell is None else str(cell)


def lines(heading: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    titles = list(heading)
    out = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    return "\n".join([*out, *(f"| {' | '.join(row)} |" for row in body)])


def conditions(found: list[dict[str, str]]) -> str:
    """Where the rows of a table were measured, and in which precision images and gradients were computed."""
    seen = sorted({f"{row['hardware']}; {row['versions']}" for row in found})
    how = [
        f"{', '.join(sorted({row['seed'] for row in found if row['precision'] == precision}, key=int))} in {precision}"
        for precision in sorted({row["precision"] for row in found})
    ]
    return f"\n\nSeeds {'; '.join(how)}. {'. '.join(seen)}." if found else ""


def mean(found: list[dict[str, str]], column: str, digits: int = 3) -> str:
    """Over seeds."""
    return f"{sum(float(row[column]) for row in found) / len(found):.{digits}f}" if found else ""


def steps_table(
    measured: Measured, recipes: Iterable[str], against: Callable[[str], str | None], names: Mapping[str, str]
) -> str:
    """Recipes one below the other at W4A4 and W3A3, with what each gains over another. names: where a recipe's
    description does not say what the table is about."""
    body, used = [], []
    for recipe in recipes:
        cells = [names.get(recipe) or about(recipe)]
        for bits in ("W4A4", "W3A3"):
            now = measured.drop(plan.CIFAR10, recipe, bits, "P3")
            used += measured.of(plan.CIFAR10, recipe, bits, "P3")
            other = against(recipe)
            before = None if other is None else measured.drop(plan.CIFAR10, other, bits, "P3")
            found = measured.of(plan.CIFAR10, recipe, bits, "P3")
            held = f"{mean(found, 'held_kl')}, {mean(found, 'held_bns_kl')}" if found else ""
            cells += [text(now), gain(before, now), held]
        body.append(cells)
    heading = ("", "W4A4: points lost", "gain", "KL, held", "W3A3: points lost", "gain", "KL, held")
    return lines(heading, body) + conditions(used)


def images_ablation(measured: Measured) -> str:
    return steps_table(measured, plan.IMAGES, plan.before_image, {})


def training_ablation(measured: Measured) -> str:
    return steps_table(measured, plan.TRAINING, plan.before_training, {"intraq": "+ rates in quantization steps"})


def quality(measured: Measured) -> str:
    body = []
    for recipe in plan.IMAGES:
        found = measured.of(plan.CIFAR10, recipe, "W4A4", "P3")
        if found:
            means = (mean(found, column, 2) for column in ("bn_distance", "intra_class_distance"))
            body.append((about(recipe), *means))
    return lines(("", "BN distance", "intra-class cosine distance"), body)


def main_table(measured: Measured) -> str:
    body, used = [], []
    for network in (plan.CIFAR10, plan.CIFAR100):
        for bits in plan.MAIN_BITS:
            for protocol in ("P1", "P3"):
                cells = [network, bits, protocol]
                for recipe in plan.MAIN:
                    used += measured.of(network, recipe, bits, protocol)
                    cells.append(text(measured.drop(network, recipe, bits, protocol)))
                body.append(cells)
    return lines(("network", "bits", "protocol", *(about(recipe) for recipe in plan.MAIN)), body) + conditions(used)


def imagenet(measured: Measured) -> str:
    """Points lost on both sets of images in one cell; rows of which nothing was measured are left out."""
    columns = [(plan.IMAGENET_RECIPES[0], "ranges_only"), *((recipe, "deployed") for recipe in plan.IMAGENET_RECIPES)]
    body, used = [], []
    for network in plan.IMAGENET:
        for bits, protocol in dict.fromkeys((key.bits, key.protocol) for key in plan.TABLES["imagenet"](0)):
            found = [
                row
                for recipe in plan.IMAGENET_RECIPES
                for test in plan.IMAGENET_TESTS
                for row in measured.of(network, recipe, bits, protocol, test)
            ]
            used += found
            cells = [
                [measured.drop(network, recipe, bits, protocol, column, test) for test in plan.IMAGENET_TESTS]
                for recipe, column in columns
            ]
            if found:
                floating = " / ".join(dict.fromkeys(row["float"] for row in found))
                name = network.removesuffix("_imagenet")
                body.append((name, f"{bits}, {protocol}", floating, *map(of_both, cells)))
    heading = (
        "network", "bits, protocol", "float top-1", "points lost: ranges only", "corrected", "`quick`",
        "`standard`, untrained", "`standard`", "`standard`, untrained, real images",
    )  # fmt: skip
    return lines(heading, body) + conditions(used)


def goals(measured: Measured) -> str:
    """How far the ImageNet networks' goals are with `quick`, on both sets of images."""
    body, used = [], []
    for network, by_bits in plan.IMAGENET_GOALS.items():
        for bits, limits in by_bits.items():
            quick = measured.of(network, "quick", bits, "P3", plan.IMAGENET_TESTS[0])
            cells = [measured.drop(network, "quick", bits, "P3", test=test) for test in plan.IMAGENET_TESTS]
            reached = (_reached(cell, limit) for cell, limit in zip(cells, limits, strict=True))
            seconds = [float(row["seconds_images"]) + float(row["seconds_training"]) for row in quick]
            used += quick
            body.append(
                (
                    network.removesuffix("_imagenet"),
                    bits,
                    " / ".join(f"{limit:g}" for limit in limits),
                    of_both(cells),
                    " / ".join(reached),
                    f"{max(seconds) / 60:.0f}" if seconds else "",
                )
            )
    heading = ("network", "bits", "goal", "lost with `quick`", "reached", "minutes on one core, at most")
    return lines(heading, body) + conditions(used)


def _reached(cell: Cell | None, limit: float) -> str:
    """Whether the mean is within the goal, or within that of `quick`, half as much again."""
    lost = math.inf if cell is None else round(cell.mean, 1)
    return "**goal**" if lost <= limit else "1.5 times" if lost <= 1.5 * limit else "no"


def of_both(cells: Sequence[Cell | None]) -> str:
    """As "5.7 / 0.2", with the range where there are seeds. Empty where nothing was measured."""
    found = []
    for cell in cells:
        if cell is not None:
            seeds = f" ({min(cell.drops):.1f} to {max(cell.drops):.1f})" if len(cell.drops) > 1 else ""
            found.append(f"{cell.mean:.1f}{seeds}")
    return " / ".join(found)


def presets(measured: Measured) -> str:
    body, used = [], []
    for recipe in plan.PRESETS:
        found = [measured.of(plan.CIFAR10, recipe, bits, "P3") for bits in ("W4A4", "W3A3")]
        used += [row for rows_of in found for row in rows_of]
        drops = (text(measured.drop(plan.CIFAR10, recipe, bits, "P3")) for bits in ("W4A4", "W3A3"))
        one = found[0][0] if found[0] else None
        budget = (f"{one['images']} x {one['iterations']}", f"{one['steps']} x {one['batch']}") if one else ("", "")
        body.append((f"`{recipe}`", *budget, *drops))
    heading = ("preset", "images x iterations", "steps x batch", "W4A4: points lost", "W3A3")
    return lines(heading, body) + conditions(used)


def static(measured: Measured) -> str:
    body, used = [], []
    for network in (plan.CIFAR10, plan.CIFAR100):
        found = [measured.of(network, recipe, "W8A8", "P3") for recipe in plan.STATIC]
        used += [row for rows_of in found for row in rows_of]
        drops = (measured.drop(network, recipe, "W8A8", "P3") for recipe in plan.STATIC)
        body.append((network, *map(text, drops)))
    return lines(("network", "ranges in Q/DQ, ours", "quantize_static"), body) + conditions(used)


def trials(measured: Measured) -> str:
    """With the divergences that they are chosen by."""
    body, used = [], []
    for network in (plan.CIFAR10, plan.CIFAR100):
        for recipe in plan.TRIALS:
            found = measured.of(network, recipe, "W4A4", "P3")
            used += found
            held = (mean(found, column) for column in ("held_kl", "held_bns_kl", "held_leaves_kl"))
            body.append((network, about(recipe), text(measured.drop(network, recipe, "W4A4", "P3")), *held))
    heading = ("network, W4A4, P3", "", "points lost", "KL, held IntraQ", "KL, held BNS", "KL, dead leaves")
    return lines(heading, body) + conditions(used)


def criteria(measured: Measured) -> str:
    """How far divergences order recipes as test images do, where all of them were measured."""
    body = []
    for network, bits in ((plan.CIFAR10, "W4A4"), (plan.CIFAR10, "W3A3"), (plan.CIFAR100, "W4A4")):
        named = dict.fromkeys(row["recipe"] for row in measured.rows)
        rows_of = (measured.of(network, recipe, bits, "P3") for recipe in named)
        recipes = [own for each in rows_of if (own := [row for row in each if row["held_leaves_kl"]])]
        lost = [cell(own, "deployed").mean for own in recipes]
        divergences = [
            [float(mean(own, column, 4)) for own in recipes] for column in ("held_kl", "held_bns_kl", "held_leaves_kl")
        ]
        by_rank = [ranks(each) for each in divergences]
        joint = (
            [sum(place) for place in zip(*by_rank, strict=True)],
            [max(place) for place in zip(*by_rank, strict=True)],
        )
        found = (f"{rank_correlation(each, lost):.2f}" for each in (*divergences, *joint))
        body.append((network, bits, str(len(recipes)), *found))
    heading = (
        "network, P3",
        "bits",
        "recipes",
        "held IntraQ",
        "held BNS",
        "dead leaves",
        "their ranks, added",
        "worst rank",
    )
    return lines(heading, body)


def ranks(values: Sequence[float]) -> list[int]:
    """The place of each value, counted from 0; equal ones have the first of their places."""
    return [sorted(values).index(value) for value in values]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, between -1 and 1."""
    return statistics.correlation(ranks(a), ranks(b))


GOALS = (
    ("CIFAR-10", "W4A4", plan.CIFAR10, 1.0, "SynQ 1.1, IntraQ 2.54"),
    ("CIFAR-10", "W3A3", plan.CIFAR10, 4.5, "HAST 5.6, IntraQ 16.96"),
    ("CIFAR-100", "W4A4", plan.CIFAR100, 2.5, "SynQ 3.0, IntraQ 5.35"),
    ("CIFAR-100", "W3A3", plan.CIFAR100, 11.0, "SynQ 13.05, IntraQ 22.08"),
)
"""Points below float; published ones from the papers' own float networks, P1."""


def headline(measured: Measured) -> str:
    body = []
    for data, bits, network, goal, published in GOALS:
        p1, p3 = (measured.drop(network, "best", bits, protocol) for protocol in ("P1", "P3"))
        body.append((data, bits, published, f"{goal:g}", text(p1), text(p3)))
    used = [
        row for _, bits, network, _, _ in GOALS for p in ("P1", "P3") for row in measured.of(network, "best", bits, p)
    ]
    heading = ("ResNet-20", "bits", "published, P1", "our goal, P1", "ours, P1", "ours, P3")
    return lines(heading, body) + conditions(used)


def integers(measured: Measured) -> str:
    """A student with two test sets has two rows, of one comparison."""
    body = []
    for protocol in rows.PROTOCOLS:
        students = {
            tuple(row[column] for column in ("network", "bits", "recipe", "seed")): row
            for row in measured.rows
            if row["protocol"] == protocol and row["integers_compared"]
        }.values()
        sums = (sum(int(row[f"integers_{what}"]) for row in students) for what in ("compared", "differing"))
        if students:
            body.append((protocol, str(len(students)), *(f"{each:,}" for each in sums)))
    return lines(("protocol", "students", "integers compared", "differ"), body)


SECTIONS = {
    "headline": headline,
    "integers": integers,
    "presets": presets,
    "trials": trials,
    "criteria": criteria,
    "main": main_table,
    "images": images_ablation,
    "training": training_ablation,
    "quality": quality,
    "static": static,
    "goals": goals,
    "imagenet": imagenet,
}


def render(page: str, measured: Measured) -> str:
    """The page with its tables made anew."""
    for name, section in SECTIONS.items():
        start, end = f"<!-- {name}: made by benchmarks/accuracy/table.py -->", f"<!-- end of {name} -->"
        page = re.sub(
            rf"{re.escape(start)}.*?{re.escape(end)}",
            lambda _, s=start, e=end, f=section: f"{s}\n{f(measured)}\n{e}",
            page,
            flags=re.DOTALL,
        )
    return page


def main() -> None:
    measured = Measured()
    PAGE.write_text(render(PAGE.read_text(), measured))


if __name__ == "__main__":
    main()
