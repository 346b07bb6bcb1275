"""The page of a run, its card, and the list of runs."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys

import pytest
from browser import console_and_widths
from typer.testing import CliRunner

from intraq_deploy.cli.main import app
from intraq_deploy.pipeline.page.facts import read_facts
from intraq_deploy.pipeline.page.writing import page
from intraq_deploy.pipeline.report import read_report


class Reader(html.parser.HTMLParser):
    """Checks that a page is well formed, and collects what tests look at."""

    EMPTY = ("meta", "link", "img", "br", "circle", "line", "polyline")

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.headings, self.sources = [], [], [], [], []
        self.alone = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        assert tag != "script"
        if tag not in self.EMPTY:
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag in ("img", "link"):
            self.sources.append(values.get("src") or values["href"])
        if tag == "img":
            assert values["alt"]
        if tag == "svg":
            assert values["role"] == "img"
            assert values["aria-label"]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.EMPTY:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())


@pytest.fixture(scope="module")
def measured(finished, labelled, tmp_path_factory):
    """A run with labelled images and losses, whose page has every section but sensitivity."""
    directory = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(finished, directory)
    result = CliRunner().invoke(app, ["validate", str(directory), "--eval", str(labelled)])
    assert result.exit_code == 0, result.output
    return directory


def assert_sound(text):
    """A page is well formed, loads nothing, and its links lead somewhere."""
    reader = Reader(text)
    assert len(set(reader.ids)) == len(reader.ids)
    assert {link for link in reader.links if not link.startswith("#")} == set()
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    assert all(source.startswith("data:") for source in reader.sources)
    assert reader.headings[0] == 1
    assert all(after <= before + 1 for before, after in zip(reader.headings, reader.headings[1:], strict=False))
    return reader


def test_every_quantize_writes_it(finished):
    text = (finished / "report.html").read_text()
    reader = assert_sound(text)
    assert {"gate", "images", "training", "layers", "provenance"} <= set(reader.ids)
    assert "classes" not in reader.ids
    assert "Passed: what is shipped is what was trained" in text
    assert f"<code>{finished}/targets/onnxruntime/model.onnx</code>" in text
    report = read_report(finished / "run.json")
    assert f"of {report.parity['onnxruntime'].integers_compared:,}" in text
    assert report.artifacts["onnxruntime"].sha256 in text
    for layer in report.layers:
        assert f'<th scope="row">{layer.name}</th>' in text


def test_validate_writes_it_anew(measured, labelled):
    text = (measured / "report.html").read_text()
    assert {"classes", "confidence"} <= set(assert_sound(text).ids)
    report = read_report(measured / "run.json")
    assert f"{report.accuracy['onnxruntime']:.2f} %" in text
    assert f"{report.reliability['onnxruntime'].error:.2f} % deployed" in text
    assert sum(report.classes.images) == report.accuracy["images"] == 40
    right = report.classes.right["onnxruntime"]
    assert 100 * sum(right) / 40 == report.accuracy["onnxruntime"]
    assert report.labelled_quality is not None
    assert report.images.noise.bn_distance > 0


def test_losses_are_kept_in_order(finished):
    for stage in ("synthesis", "fine-tuning"):
        with (finished / stage / "losses.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        done = [int(row["done"]) for row in rows]
        assert done == sorted(set(done))
        assert all(float(row["loss"]) > 0 for row in rows)


def test_the_command(run, measured, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(measured, directory)
    (directory / "report.html").unlink()
    result = run("report", directory)
    assert (result.exit_code, result.stdout) == (0, f"The report is {directory}/report.html.\n")
    assert_sound((directory / "report.html").read_text())
    result = run("report", directory, "--json")
    assert json.loads(result.stdout) == {"report": f"{directory}/report.html"}


def test_two_side_by_side(run, finished, measured, tmp_path):
    out = tmp_path / "two.html"
    assert run("report", finished, measured, "--out", out).exit_code == 0
    text = out.read_text()
    reader = assert_sound(text)
    assert {"compared", "run-1", "run-2", "run-1-gate", "run-2-classes"} <= set(reader.ids)
    assert '<th scope="row">bits</th><td>W4A4</td><td>W4A4</td>' in text
    assert re.search(r'class="own"><th scope="row">top-1 %, deployed</th><td></td><td>[\d.]+</td>', text)


def test_a_card(run, measured, tmp_path):
    out = tmp_path / "card.md"
    assert run("report", measured, "--markdown", "--out", out).exit_code == 0
    text = out.read_text()
    report = read_report(measured / "run.json")
    assert text.startswith("---\nlibrary_name: onnx\n")
    assert f"| top-1, deployed | {report.accuracy['onnxruntime']:.2f} % on 40 labelled images" in text
    assert f"`{report.artifacts['onnxruntime'].sha256}`" in text
    assert "\n\n\n\n" not in text


def test_names_are_text(measured):
    """What a person's files say is no markup."""
    facts = read_facts(measured, "<script>alert(1)</script>")
    names = [f"<b>{index}&" for index in range(10)]
    classes = facts.report.classes.model_copy(update={"names": names})
    report = facts.report.changed(classes=classes)
    text = page([type(facts)(facts.path, facts.name, report, facts.config)])
    assert_sound(text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text


def test_a_report_of_a_version_before_has_a_page(finished, tmp_path):
    """What was not kept then is left out."""
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    values = json.loads((directory / "run.json").read_text())
    for name in ("layers", "classes", "reliability", "labelled_quality"):
        del values[name]
    del values["images"]["noise"]
    (directory / "run.json").write_text(json.dumps(values))
    for stage in ("synthesis", "fine-tuning"):
        (directory / stage / "losses.csv").unlink()
    (directory / "synthesis" / "sheet.png").write_bytes(b"none")
    ids = assert_sound(page([read_facts(directory)])).ids
    assert "layers" not in ids
    assert "training" not in ids


def test_what_it_refuses(run, finished, tmp_path):
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert "is no run directory" in result.stderr
    result = run("report", finished, "--out", tmp_path / "no" / "folder.html")
    assert result.exit_code == 2
    assert "give another file with --out" in result.stderr
    result = run("report", finished, finished, "--markdown")
    assert result.exit_code == 2
    assert "write a card of each" in result.stderr
    assert run("report").exit_code == 2


def test_runs_are_listed(run, finished, measured, tmp_path):
    shutil.copytree(finished, tmp_path / "a")
    shutil.copytree(measured, tmp_path / "deep" / "b")
    (tmp_path / "c" / "unfinished").mkdir(parents=True)
    shutil.copy(finished / "config.json", tmp_path / "c" / "unfinished")
    shutil.copytree(finished, tmp_path / "d")
    (tmp_path / "d" / "run.json").write_text("{}")
    listed = json.loads(run("runs", tmp_path, "--json").stdout)["runs"]
    rows = {row["path"].removeprefix(f"{tmp_path}/"): row for row in listed}
    assert {path: row["status"] for path, row in rows.items()} == {
        "a": "passed",
        "deep/b": "passed",
        "c": "unfinished",
        "d": "unreadable",
    }
    assert rows["a"]["top1"] is None
    assert rows["deep/b"]["top1"] == read_report(measured / "run.json").accuracy["onnxruntime"]
    said = run("runs", tmp_path).stdout
    assert f"intraq-deploy report {tmp_path}/a {tmp_path}/deep/b" in said
    nothing = run("runs", tmp_path / "c" / "unfinished" / "none")
    assert nothing.exit_code == 1
    assert "has no run in it" in nothing.stderr


def test_neither_imports_torch(finished):
    code = (
        "import sys; from intraq_deploy.cli.main import app\n"
        f"for command in (['report', {str(finished)!r}], ['runs', {str(finished)!r}]):\n"
        "    try: app(command)\n"
        "    except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_in_a_browser(measured, finished, run, tmp_path):
    """Chromium says nothing on its console, asks for nothing, and scrolls nothing sideways but wide tables."""
    both = tmp_path / "both.html"
    assert run("report", finished, measured, "--out", both).exit_code == 0
    for file in (measured / "report.html", both):
        said, widths = console_and_widths(file, (320, 390, 820, 1440))
        assert said == []
        assert widths == {width: width for width in widths}
