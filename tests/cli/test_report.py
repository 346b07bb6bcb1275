"""The page of a run, its card, and the list of runs."""

import csv
import html.parser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from browser import console_and_widths
from typer.testing import CliRunner

import intraq_deploy
from intraq_deploy.cli.main import app
from intraq_deploy.pipeline.findings import TensorDiffers
from intraq_deploy.pipeline.options import MixedOptions
from intraq_deploy.pipeline.page.facts import read_facts
from intraq_deploy.pipeline.page.writing import card, page
from intraq_deploy.pipeline.report import CalibrationRecord, MixedRecord, read_report


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
    text, _ = both(facts, report)
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


def both(facts, report):
    """Returns the page and the card of a run with another report; the page is sound."""
    changed = replace(facts, report=report)
    text = page([changed])
    assert_sound(text)
    assert_sound(page([changed, facts]))
    return text, card(changed)


def test_a_failed_run_says_why(measured):
    facts = read_facts(measured)
    failure = TensorDiffers(
        target="onnxruntime", tensor="conv1", mismatched=3, compared=100, largest_difference=2, beyond_rounding=3,
        allowed_share=None,
    )  # fmt: skip
    text, written = both(facts, facts.report.changed(status="failed", failures=[failure]))
    for said in (text, written):
        assert "Failed: what would be shipped is not what was trained" in said
        assert "3 of 100 integers of conv1 differ by up to 2" in said


def test_accuracy_of_the_second_target_alone(measured):
    """As `validate --target` leaves it: the first target was never measured."""
    facts = read_facts(measured)
    report = facts.report
    second = {"onnxruntime-arm64": report.artifacts["onnxruntime"]}
    accuracy = {
        ("onnxruntime-arm64" if name == "onnxruntime" else name): value for name, value in report.accuracy.items()
    }
    changed = report.changed(artifacts=report.artifacts | second, accuracy=accuracy, classes=None, reliability={})
    assert changed.target == "onnxruntime-arm64"
    text, written = both(facts, changed)
    assert f"{accuracy['onnxruntime-arm64']:.2f} %" in text
    assert "It was not compared: intraq-deploy validate" in text
    assert "It was not compared with what was trained." in written


def test_images_only(measured):
    facts = read_facts(measured)
    empty = {"parity": {}, "artifacts": {}, "accuracy": None, "comparison": [], "advice": None, "layers": []}
    rest = {"classes": None, "reliability": {}, "labelled_quality": None, "accumulator": None, "warnings": []}
    text, written = both(facts, facts.report.changed(status="synthesized", **empty, **rest))
    for said in (text, written):
        assert "Images only: nothing is quantized yet" in said
        assert "intraq-deploy quantize" not in said
        assert "was quantized with them" not in said


def test_own_images_are_not_called_synthetic(measured):
    facts = read_facts(measured)
    images = CalibrationRecord(calibration="photos | more", count=8, found=9, confidence=0.5, classes=3)
    text, written = both(
        facts, facts.report.changed(images=images, labelled_quality=None, accuracy=None, comparison=[])
    )
    for said in (text, written):
        assert "8 of 9 images in photos | more stand in for synthetic ones" in said
        assert "synthetic images" not in said


def test_sensitivity_and_chosen_bits(measured, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(measured, directory)
    (directory / "sensitivity").mkdir()
    loss = {str(bits): {"kl": 0.1, "agreement": 90.0 + bits} for bits in (4, 8)}
    layer = {"name": "conv1", "operator": "Conv2d", "weights": 432, "channels": 16, "loss": loss}
    table = {"architecture": "a", "scheme": "integer", "images": 8, "reference": loss["8"], "layers": [layer]}
    (directory / "sensitivity" / "sensitivity.json").write_text(json.dumps(table))
    facts = read_facts(directory)
    mixed = MixedRecord(
        asked=MixedOptions(average_bits=5), layers={"conv1": 8}, average_bits=5, stored_bytes=99, images=4,
        agreement=90, widest_agreement=95,
    )  # fmt: skip
    text, _ = both(facts, facts.report.changed(mixed=mixed))
    assert '<th scope="row">conv1</th><td>432</td><td>4.00</td><td>0.00</td><td>8</td>' in text
    (directory / "sensitivity" / "sensitivity.json").write_text("{}")
    assert "sensitivity" not in assert_sound(page([read_facts(directory)])).ids


def test_losses_that_are_cut_or_not_finite(finished, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(finished, directory)
    (directory / "fine-tuning" / "losses.csv").write_text("part,done,loss\n,1,nan\n,2,inf\n")
    (directory / "synthesis" / "losses.csv").write_text("part,do")
    assert_sound(page([read_facts(directory)]))


def test_what_it_refuses(run, finished, tmp_path):
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert "is no run directory" in result.stderr
    result = run("report", finished, "--out", tmp_path / "no" / "folder.html")
    assert result.exit_code == 2
    assert "give another file with --out" in result.stderr
    result = run("report", finished, finished, "--markdown")
    assert result.exit_code == 2
    assert "2 runs are given: a card is of one." in result.stderr
    assert run("report").exit_code == 2


def test_from_python(finished, tmp_path):
    path = intraq_deploy.report(str(finished), out=tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert path.read_text() == (finished / "report.html").read_text()
    with pytest.raises(intraq_deploy.UsageError, match="0 runs are given: give one at least"):
        intraq_deploy.report()


def test_runs_are_listed(run, finished, measured, tmp_path):
    shutil.copytree(finished, tmp_path / "a")
    shutil.copytree(measured, tmp_path / "deep" / "b")
    (tmp_path / "c" / "unfinished").mkdir(parents=True)
    shutil.copy(finished / "config.json", tmp_path / "c" / "unfinished")
    shutil.copytree(finished, tmp_path / "d")
    (tmp_path / "d" / "run.json").write_text("{}")
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "config.json").write_text('{"model_type": "resnet"}')
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
    unfinished = run("report", tmp_path / "c")
    assert unfinished.exit_code == 1
    assert "holds an unfinished run: give the same quantize again" in " ".join(unfinished.stderr.split())
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
