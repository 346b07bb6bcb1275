"""The references of the site, which are made from the code, have all that the code has."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter

import intraq_deploy
from intraq_deploy.pipeline.findings import Failure, GateWarning
from intraq_deploy.pipeline.report import RunReport
from intraq_deploy.recipes.sections import KINDS
from intraq_deploy.targets.device.profile import DeviceProfile, device_names
from intraq_deploy.targets.profile import TargetProfile, profile_names

FOLDER = Path(__file__).parents[1] / "docs" / "site"


@pytest.fixture(scope="module")
def reference():
    spec = importlib.util.spec_from_file_location("reference", FOLDER / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def terms(markdown):
    """What definition lists define."""
    return re.findall(r"^`(.*)`\n:   ", markdown, flags=re.MULTILINE)


def sections(markdown):
    """The text of each section of the second level, by its heading."""
    parts = re.split(r"^## (.*?)(?: \{#.*\})?\n", markdown, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_option_of_every_command(reference):
    found = sections(reference.cli())
    shared = terms(found.pop("Options of every command"))
    assert [option.split()[-1] for option in shared] == ["--json", "--quiet", "--verbose", "--debug", "--help"]
    commands = dict(reference.commands())
    assert list(found) == list(commands)
    assert {"quantize", "recipes show"} <= set(commands)
    for name, command in commands.items():
        defined = terms(found[name])
        options = [option for option in command.params if option.param_type_name == "option"]
        assert len(defined) == len(command.params) - len(shared) + 1
        for option in options:
            known = any(option.opts[0] in re.split(r"[, ]+", term) for term in [*defined, *shared])
            assert known, f"{name} {option.opts[0]}"


def test_defaults_are_said_once(reference):
    quantize = sections(reference.cli())["quantize"]
    assert "`--bits NUMBER`\n:   Bits of weights and activations, 2 to 8. Default: 4.\n" in quantize
    assert "`--weight-bits NUMBER`\n:   Bits of weights, 2 to 8. Default: --bits.\n" in quantize
    assert "Default: None" not in quantize


def test_every_public_name(reference):
    listed = re.findall(r"^::: intraq_deploy\.(\w+)$", reference.python(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(set(intraq_deploy.__all__) - {"__version__"})


def test_every_key_of_a_recipe(reference):
    found = sections(reference.recipes())
    for name, kind in KINDS.items():
        assert terms(found[f"[{name}]"]) == [field.name for field in dataclasses.fields(kind)]
    assert "*whole number from 2 to 1,000,000.*" in found["[synthesis]"]
    assert '*`"noise"` or `"leaves"`, default `"noise"`.*' in found["[synthesis]"]


def test_every_target_and_device(reference):
    text = reference.targets()
    assert re.findall(r"^### (\S+) \{", sections(text)["Targets"], flags=re.MULTILINE) == profile_names()
    assert re.findall(r"^\| `(\S+)`", text, flags=re.MULTILINE) == device_names()
    assert terms(sections(text)["Keys of a target's file"]) == list(TargetProfile.model_fields)
    assert set(DeviceProfile.model_fields) <= set(terms(sections(text)["Keys of a device's file"]))


def test_every_key_of_run_json(reference):
    schema = reference.run_schema()
    found = sections(reference.run())
    assert list(found) == ["RunReport", *(name for name in found if name in schema["$defs"])]
    assert set(found) == {"RunReport", *schema["$defs"]}
    assert terms(found["RunReport"]) == list(RunReport.model_fields)
    for name, definition in schema["$defs"].items():
        assert set(terms(found[name])) == set(definition["properties"]), name
    kinds = TypeAdapter(Failure | GateWarning).json_schema()["$defs"]
    assert kinds.keys() <= found.keys()


def test_links_of_the_repository_become_links_of_the_site(monkeypatch):
    pytest.importorskip("mkdocs", reason="pip install '.[docs]'")
    monkeypatch.syspath_prepend(str(FOLDER))
    import hooks
    from mkdocs.structure.files import Files

    sys.modules.pop("hooks")
    no_titles = Files([])
    for page, link, expected in [
        ("index.md", "docs/accuracy.md", "accuracy.md"),
        ("index.md", "docs/README.md", "pages.md"),
        ("index.md", "CONTRIBUTING.md", "contributing.md"),
        ("contributing.md", "docs/how-to/ci.md", "how-to/ci.md"),
        ("pages.md", "how-to/ci.md", "how-to/ci.md"),
        ("targets.md", "../README.md", "index.md"),
        ("how-to/ci.md", "../../README.md", "../index.md"),
        ("how-to/ci.md", "../images/chain.svg", "../images/chain.svg"),
        ("how-to/ci.md", "jetson.md", "jetson.md"),
    ]:
        assert hooks._link(page, "text", link, no_titles) == f"[text]({expected}"
