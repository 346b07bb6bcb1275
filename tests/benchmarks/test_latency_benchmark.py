"""The latency benchmark's arithmetic: pairs, intervals, rows that replace each other, tables."""

from itertools import pairwise

import numpy as np
import pytest


@pytest.fixture
def module(files_of):
    """Imports a file of the benchmark by its name."""
    return files_of("latency")


def test_a_ratio_is_of_the_same_round(module):
    """A machine that slows down half way changes both times of a round, and no ratio."""
    speed = module("measure").speed
    slow = np.repeat([1.0, 5.0], 20)
    ratio = speed(2.0 * slow, 3.0 * slow)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.5, 1.5, 1.5))


def test_the_interval_holds_the_truth_about_as_often_as_it_says(module):
    speed, generator = module("measure").speed, np.random.default_rng(0)
    held = 0
    for _ in range(300):
        baseline, times = generator.lognormal(np.log([[6.0], [5.0]]), 0.1, size=(2, 60))
        ratio = speed(times, baseline, samples=400)
        held += ratio.low <= 1.2 <= ratio.high
    assert 0.90 <= held / 300 <= 0.99


def test_rounds_of_two_loops_make_no_pairs(module):
    with pytest.raises(ValueError, match="3 rounds are compared with 4"):
        module("measure").speed(np.ones(3), np.ones(4))


def test_every_round_times_every_model_once_in_a_changing_order(module):
    measure = module("measure")
    calls = []
    models = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = measure.interleaved(models, rounds=30, seconds=60, threads=1)
    assert {name: values.shape for name, values in times.items()} == dict.fromkeys("abc", (30,))
    rounds = np.array(calls[-30 * 6 :]).reshape(30, 3, 2)
    assert (rounds[..., 0] == rounds[..., 1]).all()
    assert all(sorted(order) == list("abc") for order in rounds[..., 0])
    assert any((one != other).any() for one, other in pairwise(rounds[..., 0]))


def test_time_runs_out_after_the_least_rounds(module):
    measure = module("measure")
    times = measure.interleaved({"a": lambda: None}, rounds=1000, seconds=0, threads=1)
    assert times["a"].shape == (measure.MIN_ROUNDS,)


def row(**values):
    key = {"network": "torchvision:a", "batch": "1", "threads": "1", "model": "W4A4", "profile": "x", "cpu": "c"}
    return (
        key | {"median_ms": "2.0", "input_size": "224", "versions": "v", "commit": "1", "date": "2020-01-01"} | values
    )


def against(value, low, high):
    ends = {"": value, "_low": low, "_high": high}
    return {f"vs_{name}{end}": str(number) for name in ("static", "float32") for end, number in ends.items()}


def test_rows_of_one_measurement_replace_the_earlier_ones(module, tmp_path):
    results, file = module("results"), tmp_path / "results.csv"
    results.write([row(), row(batch="8")], file)
    results.write([row(median_ms="3.0"), row(cpu="d")], file)
    found = [(r["batch"], r["cpu"], r["median_ms"]) for r in results.read(file)]
    assert found == [("1", "c", "3.0"), ("8", "c", "2.0"), ("1", "d", "2.0")]


def test_the_page_says_which_networks_are_faster(module, tmp_path):
    results, table = module("results"), module("table")
    quiet = {"load": "0.1", "others_cores": "0.00"}
    file = tmp_path / "results.csv"
    results.write(
        [
            row(model="float32 (ours)", profile="", median_ms="4.0", **quiet),
            row(**against(2.0, 1.9, 2.1), **quiet),
            row(network="torchvision:b", **against(1.0, 0.9, 1.1), **quiet),
            row(network="torchvision:d", **against(0.5, 0.4, 0.6), **quiet),
            row(network="torchvision:e", median_ms="", note="an operator is missing"),
        ],
        file,
    )
    text = table.render(results.read(file))
    for name in ("quantize_static", "float32"):
        lines = text.split(f"| against {name} |")[1].splitlines()
        assert lines[2] == "| W4A4 x | 0.50 to 2.00 | 1: a | 1: b | 1: d |"
    assert "| a | 4.00 | 2.00 (2.00, 1.90 to 2.10) |" in text
    assert "* torchvision:e: an operator is missing" in text
