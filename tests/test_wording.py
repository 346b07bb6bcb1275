"""The pieces of sentences that messages share."""

import pytest

from intraq_deploy.wording import did_you_mean, listing, nearest, reason, shown


def test_the_nearest_names_come_first_and_else_some_known_ones():
    assert nearest("resnet81", ["resnet18", "vgg11"]) == "the nearest: resnet18"
    assert nearest("zzz", ["b", "a"]) == "known are a, b"
    assert nearest("zzz", [f"n{index}" for index in range(1200)]) == "none of its 1,200 is like it"


def test_a_near_miss_is_asked_for_and_else_all_are_named():
    assert did_you_mean("stps", ["steps", "batch"]) == "did you mean steps?"
    assert did_you_mean("b-x", ["a-b", "b-c-x", "x-b"]) == "did you mean b-c-x or x-b?"
    assert did_you_mean("stps", ["steps"], prefix="training.") == "did you mean training.steps?"
    assert did_you_mean("zzz", ["a", "b"]) == "known are a, b."
    assert did_you_mean("zzz", ["a", "b"], otherwise="choose one of") == "choose one of a, b."


@pytest.mark.parametrize(
    ("words", "expected"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_words_are_listed(words, expected):
    assert listing(words) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1e-5, "1e-05"), (float("inf"), "inf"), ("a", '"a"'), (True, "true"), ([1, "b"], '[1, "b"]')],
)
def test_values_are_shown_as_files_have_them(value, expected):
    assert shown(value) == expected


def test_long_values_and_reasons_are_shortened():
    assert shown("a" * 100) == '"' + 59 * "a" + "..."
    assert reason(ValueError("a\n  b")) == "ValueError: a b"
    assert reason(ValueError()) == "ValueError"
    assert reason(ValueError("abc"), length=2) == "ValueError: ab..."
