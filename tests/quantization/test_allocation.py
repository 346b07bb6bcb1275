"""The search for bits: optimal, and never above the budget."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intraq_deploy.quantization import allocation
from intraq_deploy.quantization.allocation import Allocations, Choice, stored_bytes


def total(layers, bits):
    """Cost and loss of an allocation."""
    chosen = [next(c for c in choices if c.bits == bits[name]) for name, choices in layers.items()]
    return sum(c.cost for c in chosen), sum(c.loss for c in chosen)


def best_by_force(layers, budget):
    """The least loss that the budget buys."""
    totals = [
        (sum(c.cost for c in chosen), sum(c.loss for c in chosen)) for chosen in itertools.product(*layers.values())
    ]
    return min(loss for cost, loss in totals if cost <= budget)


def test_a_hand_made_table():
    """4 bits more for the layer that needs them, and not for the large one that does not."""
    layers = {
        "stem": [Choice(4, 40, 1.0), Choice(8, 80, 0.1)],
        "body": [Choice(4, 400, 0.2), Choice(8, 800, 0.0)],
        "head": [Choice(4, 50, 0.3), Choice(8, 100, 0.05)],
    }
    found = Allocations(layers)
    assert found.within(490) == {"stem": 4, "body": 4, "head": 4}
    assert found.within(530) == {"stem": 8, "body": 4, "head": 4}
    assert found.within(579) == {"stem": 8, "body": 4, "head": 4}
    assert found.within(580) == {"stem": 8, "body": 4, "head": 8}
    assert found.within(10_000) == {"stem": 8, "body": 8, "head": 8}
    assert [total(layers, found[index])[0] for index in range(len(found))] == [490, 530, 580, 980]


def test_below_the_cheapest_there_is_nothing():
    with pytest.raises(ValueError, match="99 buys no allocation: the cheapest costs 100"):
        Allocations({"only": [Choice(4, 100, 1.0), Choice(8, 200, 0.0)]}).within(99)


def test_a_layer_without_a_choice():
    layers = {"fixed": [Choice(8, 30, 0.0)], "free": [Choice(4, 40, 1.0), Choice(8, 80, 0.0)]}
    assert Allocations(layers).within(70) == {"fixed": 8, "free": 4}
    assert Allocations(layers).within(110) == {"fixed": 8, "free": 8}


def test_fewer_bits_that_measured_better_are_taken():
    assert Allocations({"noisy": [Choice(4, 40, 0.1), Choice(8, 80, 0.2)]}).within(80) == {"noisy": 4}


TABLES = st.lists(
    st.lists(
        st.tuples(st.integers(1, 60), st.floats(-1, 1).map(lambda loss: round(loss, 3))),
        min_size=1,
        max_size=4,
        unique_by=lambda choice: choice[0],
    ),
    min_size=1,
    max_size=5,
).map(
    lambda rows: {
        f"layer{index}": [Choice(bits + 2, cost, loss) for bits, (cost, loss) in enumerate(row)]
        for index, row in enumerate(rows)
    }
)


@given(TABLES, st.integers(0, 320))
def test_no_allocation_within_the_budget_is_better(layers, budget):
    least = sum(min(c.cost for c in choices) for choices in layers.values())
    budget = max(budget, least)
    cost, loss = total(layers, Allocations(layers).within(budget))
    assert cost <= budget
    assert loss == pytest.approx(best_by_force(layers, budget), abs=1e-9)


@given(TABLES)
def test_each_allocation_costs_more_and_loses_less(layers):
    found = Allocations(layers)
    totals = [total(layers, found[index]) for index in range(len(found))]
    assert totals[0][0] == sum(min(c.cost for c in choices) for choices in layers.values())
    for (cost, loss), (next_cost, next_loss) in itertools.pairwise(totals):
        assert cost < next_cost
        assert loss > next_loss


@settings(max_examples=50)
@given(TABLES, st.integers(0, 320))
def test_coarse_units_keep_the_budget(layers, budget):
    """Above so many units, costs are rounded: up, so that the budget holds, and the ends of the range are still met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "_MOST_UNITS", 7)
        found = Allocations(layers)
    least = sum(min(c.cost for c in choices) for choices in layers.values())
    budget = max(budget, least)
    assert total(layers, found.within(budget))[0] <= budget
    assert total(layers, found[len(found) - 1])[1] == pytest.approx(best_by_force(layers, 10_000), abs=1e-9)


def test_a_deep_network_takes_seconds():
    """54 layers of ResNet-50's sizes, exact: every unit of the budget can be used."""
    sizes = [
        9408,
        *[4096, 36864, 16384] * 4,
        *[65536, 147456] * 8,
        *[262144, 589824] * 10,
        *[1048576, 2359296] * 2,
        2048000,
    ]
    layers = {
        f"layer{index}": [Choice(bits, size * bits, 2.0**-bits * (index % 7 + 1)) for bits in range(2, 9)]
        for index, size in enumerate(sizes)
    }
    found = Allocations(layers)
    cost, _ = total(layers, found.within(4 * sum(sizes)))
    assert 3.999 * sum(sizes) < cost <= 4 * sum(sizes)


def test_stored_bytes():
    assert stored_bytes(channels=8, weights=216, bits=4) == 108 + 8 * 9
    assert stored_bytes(channels=8, weights=217, bits=2) == 109 + 8 * 9
    assert stored_bytes(channels=8, weights=216, bits=5) == stored_bytes(channels=8, weights=216, bits=8) == 216 + 8 * 9
