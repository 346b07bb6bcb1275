"""The runner as one file: its modules one behind the other, and their imports at the top.

At its top level a module may import from the standard library, and names from modules beside it (`from .base import
say`). Anything that would mean something else in one file is refused. `head.py` comes first and whole: it is what has
to happen before other imports.
"""

import ast
import builtins
import symtable
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import pairwise

_PACKAGE = "intraq_deploy.targets.device.runner"
_HEAD, _MAIN = "head", "main"
_WIDTH = 120


@dataclass(frozen=True)
class _Module:
    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        return [node for node in self.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]

    def defined(self) -> set[str]:
        """Names that the module gives a value at its top level, otherwise than by its imports."""
        above = {alias.name for node in self.imports for alias in node.names}
        symbols = symtable.symtable(self.text, self.name, "exec").get_symbols()
        return {
            symbol.get_name()
            for symbol in symbols
            if symbol.is_assigned() or (symbol.is_imported() and symbol.get_name() not in above)
        }

    def body(self) -> str:
        """The module under a banner, without its imports; its docstring is a comment."""
        docstring = ast.get_docstring(self.tree) or ""
        lines = self.text.split("\n")  # as ast counts them
        for node in (*self.imports, *(self.tree.body[:1] if docstring else [])):
            assert node.end_lineno is not None
            lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
        comment = "\n".join(f"# {line}".rstrip() for line in docstring.splitlines())
        return "\n".join([f"# ---- {self.name} ".ljust(_WIDTH, "-"), comment, "", "\n".join(lines).strip()])


def runner() -> str:
    """The text of run.py."""
    return joined(lambda name: (resources.files(_PACKAGE) / f"{name}.py").read_text(encoding="utf-8"))


def joined(read: Callable[[str], str]) -> str:
    """The text of one file; the same modules give the same text. read: gives a module's text by its name.

    Raises ValueError where modules import each other in a circle or otherwise than above, define one name twice or one
    of Python's own, or have two statements in one line.
    """
    modules: dict[str, _Module] = {}
    _collect(_MAIN, read, modules, ())
    imported: dict[str, str] = {}
    owners = dict.fromkeys(dir(builtins), "Python's builtins")
    for module in modules.values():
        own = dict.fromkeys(sorted(module.defined()), f"{module.name}.py")
        for name, owner in (*_imported(module).items(), *own.items()):
            if owners.setdefault(name, owner) != owner:
                raise ValueError(
                    f"{name} is of {owners[name] or 'Python'} and of {owner or 'Python'}: rename it in the runner"
                )
        imported |= _imported(module)
    foreign = {(source or name).partition(".")[0] for name, source in imported.items()} - sys.stdlib_module_names
    if foreign:
        raise ValueError(
            f"the runner imports {', '.join(sorted(foreign))}: a device may have the standard library only"
        )
    head = f"{read(_HEAD).rstrip()}\n\n{_statements(imported)}"
    return "\n\n\n".join([head, *(module.body() for module in modules.values())]) + "\n"


def _collect(name: str, read: Callable[[str], str], found: dict[str, _Module], through: tuple[str, ...]) -> None:
    """Adds a module to `found`, behind those that it imports from."""
    if name in through:
        raise ValueError(f"the runner's modules import each other in a circle: {' -> '.join((*through, name))}")
    if name in found:
        return
    module = _Module(name, read(name))
    for one, other in pairwise(module.tree.body):
        if one.end_lineno == other.lineno:
            raise ValueError(f"{name} has two statements in line {other.lineno}: give each a line of its own")
    for below in ast.walk(module.tree):
        if isinstance(below, ast.ImportFrom) and below.level and below not in module.imports:
            raise ValueError(f"{name} has `{ast.unparse(below)}` below its top level: import it above")
    for node in module.imports:
        far = isinstance(node, ast.ImportFrom) and (node.level > 1 or node.module in (None, "__future__"))
        if far or any(alias.asname or (isinstance(node, ast.Import) and "." in alias.name) for alias in node.names):
            raise ValueError(f"{name} has `{ast.unparse(node)}`: import names of modules as they are")
        if isinstance(node, ast.ImportFrom) and node.level:
            _collect(str(node.module), read, found, (*through, name))
    found[name] = module


def _imported(module: _Module) -> dict[str, str]:
    """A module's imports from the standard library: where each name is from, "" for a module itself."""
    found: dict[str, str] = {}
    for node in module.imports:
        if isinstance(node, ast.Import):
            found |= {alias.name: "" for alias in node.names}
        elif not node.level:
            found |= {alias.name: str(node.module) for alias in node.names}
    return found


def _statements(imported: dict[str, str]) -> str:
    """Import statements, sorted."""
    lines = [f"import {name}" for name, source in sorted(imported.items()) if not source]
    for source in sorted(set(imported.values()) - {""}):
        names = ", ".join(sorted(name for name in imported if imported[name] == source))
        line = f"from {source} import {names}"
        if len(line) > _WIDTH:
            names = textwrap.fill(names, _WIDTH - 1, initial_indent="    ", subsequent_indent="    ")
            line = f"from {source} import (\n{names},\n)"
        lines.append(line)
    return "\n".join(lines)
