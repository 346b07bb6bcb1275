"""The package's source files, as the tests of its structure and its words read them: parsed, never imported."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOMES = {
    "intraq_deploy": ROOT / "intraq_deploy",
    "intraq_deploy.cli": ROOT / "cli",
    "intraq_deploy.targets": ROOT / "targets",
}
TOP_LEVEL = "top level"


@dataclass(frozen=True, slots=True)
class Module:
    """One source file."""

    name: str
    """Its dotted name, for example "intraq_deploy.graph.ops"."""
    file: Path
    tree: ast.Module

    @property
    def is_package(self) -> bool:
        return self.file.name == "__init__.py"

    @property
    def room(self) -> str:
        """The folder directly under the package in which it stands, or TOP_LEVEL."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 2 or (self.is_package and len(parts) == 2) else TOP_LEVEL

    def is_command(self, function: ast.AST) -> bool:
        """Whether a function is a command of the command line: its docstring is then the text of --help."""
        return self.room == "cli" and bool(getattr(function, "decorator_list", []))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package."""
    found = []
    for package, folder in HOMES.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            found.append(Module(name, file, ast.parse(file.read_text())))
    return tuple(found)


def rooms() -> list[str]:
    """Every room of the package, and TOP_LEVEL for the files that are in none."""
    return sorted({module.room for module in modules()})


def in_room(room: str) -> list[Module]:
    """The modules of one room."""
    return [module for module in modules() if module.room == room]


@dataclass(frozen=True, slots=True)
class Definition:
    """A function or class, and its dotted name within its module."""

    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

    @property
    def is_public(self) -> bool:
        return not any(part.startswith("_") for part in self.name.split("."))


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def definitions(tree: ast.Module) -> list[Definition]:
    """The functions and classes of a module and of its classes; not those inside functions."""

    def inside(body: list[ast.stmt], prefix: str) -> list[Definition]:
        found = []
        for node in body:
            if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                found.append(Definition(prefix + node.name, node))
            if isinstance(node, ast.ClassDef):
                found += inside(node.body, f"{prefix}{node.name}.")
        return found

    return inside(tree.body, "")


def functions(tree: ast.Module) -> list[Definition]:
    """The functions among the definitions."""
    return [definition for definition in definitions(tree) if isinstance(definition.node, FUNCTIONS)]


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    """The parameters of a function, `self` and `cls` left out."""
    args = function.args
    found = [*args.posonlyargs, *args.args, *args.kwonlyargs, *filter(None, (args.vararg, args.kwarg))]
    return [parameter for parameter in found if parameter.arg not in ("self", "cls")]
