"""The accuracy page's tables say what the committed rows say."""

import pytest


@pytest.fixture
def table(files_of):
    return files_of("accuracy")("table")


def test_the_page_is_that_of_the_rows(table):
    page = table.PAGE.read_text()
    assert table.render(page, table.Measured()) == page, (
        "run benchmarks/accuracy/table.py: the page is older than its rows"
    )
    for name in table.SECTIONS:
        assert f"<!-- {name}: made by" in page


def test_no_integer_differs_where_all_of_a_network_is_integers(table):
    rows = [row for row in table.Measured().rows if row["protocol"] == "P3" and row["integers_compared"]]
    assert len(rows) > 200
    assert {row["integers_differing"] for row in rows} == {"0"}


def test_no_row_is_there_twice(table):
    keys = [
        tuple(row[column] for column in ("network", "protocol", "bits", "recipe", "seed", "test"))
        for row in table.Measured().rows
    ]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((2.0, 2.2, 2.1), (1.0, 1.1, 1.2), "+1.00"),
        ((1.0, 1.2), (2.0, 2.2), "-1.00"),
        ((2.0, 2.2, 2.1), (1.0, 2.5, 1.0), "+0.60, not separated"),
        ((1.0, 3.0), (1.0, 1.0), "+1.00, not separated"),
        ((2.0,), (1.0, 1.1), "+0.95"),
        (None, (1.0,), ""),
    ],
)
def test_a_gain_within_the_spread_is_none(table, before, after, said):
    cells = (None if drops is None else table.Cell(drops) for drops in (before, after))
    assert table.gain(*cells) == said


def test_a_cell_says_of_how_many_seeds_it_is(table):
    assert str(table.Cell((1.0, 2.0, 3.0))) == "2.00 (1.00 to 3.00)"
    assert str(table.Cell((1.0, 2.0))) == "1.50 (2 seeds, 1.00 to 2.00)"
    assert str(table.Cell((1.0,))) == "1.00 (1 seed)"


def test_ranks_are_what_is_compared(table):
    assert table.rank_correlation((1.0, 2.0, 30.0), (0.1, 0.2, 0.3)) == pytest.approx(1.0)
    assert table.rank_correlation((1.0, 2.0, 30.0), (0.3, 0.2, 0.1)) == pytest.approx(-1.0)
