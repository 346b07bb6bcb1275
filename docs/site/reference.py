"""References in Markdown, made from the code: the command line, Python, recipes, targets and run.json."""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from itertools import chain, zip_longest
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from annotated_types import Interval
from pydantic import BaseModel

import intraq_deploy
from intraq_deploy.cli.main import app
from intraq_deploy.pipeline.report import RunReport
from intraq_deploy.recipes import BUILTIN, builtin_text
from intraq_deploy.recipes.sections import KINDS
from intraq_deploy.targets.device.profile import DeviceProfile, device_names, load_device
from intraq_deploy.targets.profile import TargetProfile, load_profile, profile_names, profile_text

# The command line.


def commands(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every command's name, as in "recipes show", and what Typer makes of it."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def _shared() -> dict[str, Any]:
    """Returns the options that every command has, by name."""
    params = [{param.name: param for param in command.params} for _, command in commands()]
    return {name: param for name, param in params[0].items() if all(name in others for others in params)}


def cli() -> str:
    shared = _shared()
    parts = [
        "## Options of every command {#options-of-every-command}",
        _options(shared.values()),
        "`--help`\n:   Show the help of the command.",
    ]
    for name, command in commands():
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        usage = " ".join([f"intraq-deploy {name}", *(_argument(each) for each in arguments), "[OPTIONS]"])
        parts += [f"## {name} {{#{name.replace(' ', '-')}}}", _text(command.help), f"```text\n{usage}\n```"]
        panels: dict[str | None, list[Any]] = {}
        for param in command.params:
            if param.name not in shared:
                panels.setdefault(param.rich_help_panel, []).append(param)
        for panel, params in panels.items():
            parts += [f"**{panel}**"] if panel and len(panels) > 1 else []
            parts.append(_options(params))
        if command.epilog:
            examples = "\n".join(line.strip() for line in command.epilog.splitlines()[1:] if line.strip())
            parts.append(f"```sh\n{examples}\n```")
    return "\n\n".join(parts)


def _argument(param: Any) -> str:
    name = param.metavar or param.name.upper()
    return name if param.required else f"[{name}]"


def _options(params: Iterable[Any]) -> str:
    return "\n\n".join(_option(param) for param in params)


def _option(param: Any) -> str:
    """Returns an entry of a definition list."""
    is_argument = param.param_type_name == "argument"
    has_value = is_argument or not param.is_flag
    if is_argument:
        term = _argument(param)
    else:
        value = f" {param.metavar or _kind(param)}" if has_value else ""
        term = ", ".join(sorted(param.opts, key=len)) + value
    help_text = param.help or ""
    if has_value and not param.required and param.default is not None and "Default:" not in help_text:
        help_text += f" Default: {param.default}."
    return f"`{term}`\n:   {_text(help_text.strip())}"


def _kind(param: Any) -> str:
    kind = param.type_descriptor.annotation
    return {int: "NUMBER", float: "NUMBER"}.get(kind, "FILE" if "path" in str(kind).lower() else "NAME")


# Python.


def python() -> str:
    """Returns a section for each kind of public name, for mkdocstrings to fill."""
    names = [name for name in intraq_deploy.__all__ if not name.startswith("__")]
    kinds = {
        "Functions": [name for name in names if name.islower()],
        "Types": [name for name in names if not name.islower() and not name.endswith("Error")],
        "Errors": [name for name in names if name.endswith("Error")],
    }
    parts = [[f"## {kind}", *(f"::: intraq_deploy.{name}" for name in those)] for kind, those in kinds.items()]
    return "\n\n".join(chain.from_iterable(parts))


# Files: recipes, targets, run.json.


def recipes() -> str:
    sections = [f"## [{name}] {{#{name}}}\n\n{_summary(kind)}\n\n{_fields(kind)}" for name, kind in KINDS.items()]
    files = [f'=== "{name}"\n\n' + _indented(f"```toml\n{builtin_text(name)}```") for name in BUILTIN]
    return "\n\n".join([*sections, "## The built-in recipes", *files])


def targets() -> str:
    devices = [load_device(name) for name in device_names()]
    profiles = [load_profile(name) for name in profile_names()]
    rows = [
        "| device | what | targets, best first | releases |",
        "|---|---|---|---|",
        *(
            f"| `{device.name}` | {device.description} ({device.machine}) "
            f"| {', '.join(f'[`{name}`](#{name})' for name in device.targets)} "
            f"| {', '.join(release.name for release in device.releases)} |"
            for device in devices
        ),
    ]
    files = [f"### {each.name} {{#{each.name}}}\n\n```toml\n{profile_text(each.name)}```" for each in profiles]
    return "\n\n".join(
        [
            "## Devices", "\n".join(rows),
            "## Targets", *files,
            "## Keys of a target's file", _fields(TargetProfile),
            "## Keys of a device's file", _classes(DeviceProfile, level=3),
        ]
    )  # fmt: skip


def run() -> str:
    return f"[The JSON schema](run.schema.json) is for programs.\n\n{_classes(RunReport, level=2)}"


def run_schema() -> dict[str, Any]:
    """Returns the JSON schema of run.json."""
    return RunReport.model_json_schema(mode="serialization")


def _classes(first: type, level: int) -> str:
    """Returns a section for a class, and for each class that its fields lead to."""
    found = [first]
    for kind in found:
        hints = get_type_hints(kind, include_extras=True)
        found += [each for name in _keys(kind) for each in _kinds_in(hints[name]) if each not in found]
    heading = "#" * level
    return "\n\n".join(
        f"{heading} {kind.__name__} {{#{kind.__name__.lower()}}}\n\n{_summary(kind)}\n\n{_fields(kind)}"
        for kind in dict.fromkeys(found)
    )


def _keys(kind: Any) -> list[str]:
    return list(kind.model_fields if issubclass(kind, BaseModel) else kind.__dataclass_fields__)


def _kinds_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        yield hint
    elif get_origin(hint) is not Literal:
        for each in get_args(hint):
            yield from _kinds_in(each)


class _Source:
    """A class as it is written: its docstring, and the default and the docstring of each field, where it has them."""

    def __init__(self, kind: type) -> None:
        (written,) = ast.parse(inspect.getsource(kind)).body
        assert isinstance(written, ast.ClassDef)
        self.meaning = ast.get_docstring(written) or ""
        self.fields: dict[str, tuple[str | None, str]] = {}
        for node, below in zip_longest(written.body, written.body[1:]):
            if isinstance(node, ast.AnnAssign):
                value = below.value if isinstance(below, ast.Expr) else None
                meaning = inspect.cleandoc(value.value) if isinstance(value, ast.Constant) else ""
                self.fields[ast.unparse(node.target)] = (node.value and ast.unparse(node.value), meaning)


def _summary(kind: type) -> str:
    return _text(_Source(kind).meaning)


def _fields(kind: type) -> str:
    """Returns a definition list of a class's fields: name, type, default, and the docstring below each."""
    hints = get_type_hints(kind, include_extras=True)
    written: dict[str, tuple[str | None, str]] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.startswith("intraq_deploy"):
            written |= _Source(each).fields
    entries = []
    for name in _keys(kind):
        value, meaning = written[name]
        default = "" if value is None else f", default `{_plain(value)}`"
        entries.append(f"`{name}`\n:   *{_type(hints[name])}{default}.* {_text(meaning)}".rstrip())
    return "\n\n".join(entries)


def _plain(value: str) -> str:
    """Returns a default as JSON and TOML have it."""
    words = {"True": "true", "False": "false", "None": "null"}
    text = words.get(value, value)
    found = re.search(r"default_factory=(\w+)", text)
    return {"dict": "{}", "list": "[]"}[found[1]] if found else text.replace("'", '"')


def _type(hint: Any) -> str:
    """Returns a type in words, with links to the classes of the page."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [_bounds(each) for each in args[1:] if isinstance(each, Interval)]
        return " ".join([_type(args[0]), *bounds])
    if origin in (Union, UnionType):
        words = [_type(each) for each in args if each is not NoneType] + ["nothing"] * (NoneType in args)
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return " or ".join(f"`{each!r}`".replace("'", '"') for each in args)
    if origin is dict:
        return f"table of {_type(args[1])}"
    if origin in (list, tuple):
        count = f"{len(args)} x " if origin is tuple and Ellipsis not in args else "list of "
        return count + _type(args[0])
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[hint]


def _bounds(interval: Interval) -> str:
    low = f"from {interval.ge:,}" if interval.ge is not None else f"above {interval.gt:,}"
    return low if interval.le is None else f"{low} to {interval.le:,.0f}"


def _text(text: str) -> str:
    """Returns plain text as Markdown: module names of the package become code."""
    plain = re.sub(r"(?<![`*])([<>*|])", r"\\\1", text)
    return re.sub(r"\((\w+\.\w+(?:\.\w+)*)\)", r"(`\1`)", plain)


def _indented(text: str) -> str:
    return re.sub(r"^(?=.)", "    ", text, flags=re.M)


MAKERS = {each.__name__: each for each in (cli, python, recipes, targets, run)}
"""By the names that pages say."""
