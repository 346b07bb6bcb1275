"""Class names from files and lists."""

import json

import pytest

from intraq_deploy.errors import DataError
from intraq_deploy.models.class_names import read_class_names

NAMES = ("cat", "big dog", "naïve")


def refusal(*args) -> str:
    with pytest.raises(DataError) as caught:
        read_class_names(*args)
    return str(caught.value)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "cat\nbig dog\r\nnaïve\n\n"),
        ("names.txt", "\ufeffcat\nbig dog\nnaïve"),
        ("names.json", json.dumps(NAMES)),
        ("names.json", json.dumps({"0": "cat", "2": "naïve", "1": "big dog"})),
        ("names.txt", json.dumps({"cat": 0, "big dog": 1, "naïve": 2})),
    ],
    ids=["lines", "byte order mark", "list", "index-to-name", "name-to-index"],
)
def test_files(tmp_path, file, text):
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert read_class_names(tmp_path / file, 3) == NAMES
    assert read_class_names(str(tmp_path / file), 3) == NAMES


def test_a_list():
    assert read_class_names(list(NAMES), 3) == NAMES


def test_a_wrong_number(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    message = refusal(tmp_path / "names.txt", 10)
    assert "names.txt has 2 class names, and the network has 10 classes; give 10 names" in message
    assert "the list of class names has 3 class names, and" in refusal(NAMES, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"cat\n\ndog\n", "line 2 of"),
        (b"\xff\xfe\x00", "no UTF-8 text"),
        (b"[1, 2]", "holds neither names nor"),
        (b'{"1": "cat", "2": "dog"}', "holds neither names nor an object whose indices run from 0"),
        (b'["cat", ', "no valid JSON (line 1"),
    ],
    ids=["empty-line", "binary", "numbers", "from-one", "broken"],
)
def test_unusable_files(tmp_path, text, words):
    (tmp_path / "names").write_bytes(text)
    message = refusal(tmp_path / "names", 2)
    assert words in message
    assert "one name per line" in message


def test_a_missing_file(tmp_path):
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "names.txt", 2)
