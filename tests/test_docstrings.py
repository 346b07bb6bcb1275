"""The docstrings of public names: they can be read alone, and say shapes, types and errors.

A public name has no leading underscore, and stands in no class that has one. Source files are parsed, not imported.
"""

import ast
import re
from itertools import pairwise

import pytest
from source import FUNCTIONS, HOMES, definitions, functions, in_room, parameters, rooms

ERRORS = {
    node.name
    for node in ast.parse((HOMES["intraq_deploy"] / "errors.py").read_text()).body
    if isinstance(node, ast.ClassDef)
}

# These words go on from the name beside the docstring: "Of one file.", "What layers read.", "By image."
FRAGMENTS = (
    "of", "what", "by", "as", "for", "from", "in", "on", "at", "to", "with", "without", "against", "after", "before",
    "behind", "beside", "between", "beyond", "over", "under", "per", "within", "through", "where", "who", "else",
    "the same", "the other", "also", "both", "none", "its", "their", "those", "these", "it", "they", "again", "instead",
    "only", "not", "raises", "returns:", "yields:", "and", "or", "than",
    "float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool",
)  # fmt: skip
NAMES_IN_SMALL_LETTERS = ("torch", "torch.export", "torchvision", "timm", "trtexec", "nvidia-smi", "numpy")
"""A first line begins with a capital letter or a name in backquotes, but for these tools' names."""
LEAST_WORDS = 3

ARRAY_TYPES = {"Tensor", "ndarray", "NDArray"}
SHAPE = re.compile(r"\[[^\]]*\]|scalar|0-dim|shape", re.IGNORECASE)
TYPE = re.compile(r"\b(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool|(any|same|its) (float )?(d?type)|dtype)\b")


def fault_of(text):
    """Says why a docstring's first paragraph cannot be read alone; None where it can."""
    first = " ".join(text.strip().split("\n\n")[0].split())
    start = first.lower()
    if any(start.startswith(word) and not start[len(word) :][:1].isalpha() for word in FRAGMENTS):
        return "begins with a word that goes on from the name"
    word = first.split()[0] if first else ""
    named = word.strip("'s:,").removesuffix("'") in NAMES_IN_SMALL_LETTERS
    if not (first[:1].isupper() or first[:1] == "`" or named):
        return "does not begin as a sentence"
    if len(first.split()) < LEAST_WORDS:
        return f"has fewer than {LEAST_WORDS} words"
    if not re.search(r"""[.:?!]["'`)]*$""", first):
        return "does not end as a sentence"
    return None


def attribute_docstrings(body, prefix=""):
    """Yields the name and the string below every public assignment of a module or class."""
    for node, below in pairwise(body):
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        targets = target.elts if isinstance(target, ast.Tuple) else [target]
        names = [name.id for name in targets if isinstance(name, ast.Name)]
        is_string = isinstance(below, ast.Expr) and isinstance(getattr(below.value, "value", None), str)
        if names and is_string and not all(name.startswith("_") for name in names):
            yield prefix + names[0], below.value.value


def public_docstrings(tree, is_help=lambda node: False):
    """Yields the name and the docstring of a module and of its public classes, functions and attributes.

    is_help: says whether a function's docstring is a help text, which is left out.
    """
    if text := ast.get_docstring(tree):
        yield "the module", text
    yield from attribute_docstrings(tree.body)
    for definition in definitions(tree):
        if not definition.is_public:
            continue
        if (text := ast.get_docstring(definition.node)) and not is_help(definition.node):
            yield definition.name, text
        if isinstance(definition.node, ast.ClassDef):
            yield from attribute_docstrings(definition.node.body, f"{definition.name}.")


def has_array(function):
    """Whether a parameter or the result is a tensor or an array, alone or in a collection."""
    annotations = [parameter.annotation for parameter in parameters(function)] + [function.returns]
    words = set()
    for annotation in filter(None, annotations):
        words |= set(re.findall(r"\w+", ast.unparse(annotation)))
    return bool(words & ARRAY_TYPES)


def says_shape_and_type(text):
    return bool(SHAPE.search(text) and TYPE.search(text))


def raised_by(function):
    """Returns the package's errors that a function raises itself, not in a function inside it."""
    found, left = set(), list(function.body)
    while left:
        node = left.pop()
        if isinstance(node, (*FUNCTIONS, ast.Lambda, ast.ClassDef)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            found.add(node.exc.func.id)
        left += ast.iter_child_nodes(node)
    return found & ERRORS


def unsaid(function):
    """Returns the errors that a function raises and that its docstring does not name behind "Raises"."""
    said = (ast.get_docstring(function) or "").partition("Raises")[2]
    return {error for error in raised_by(function) if error not in said}


def public_functions(room):
    for module in in_room(room):
        for definition in functions(module.tree):
            if definition.is_public and not module.is_command(definition.node):
                yield f"{module.name}.{definition.name}", definition.node


@pytest.mark.parametrize("room", rooms())
def test_first_lines_can_be_read_alone(room):
    faults = [
        f"{module.name}: {name} {fault}: {text.strip().splitlines()[0]}"
        for module in in_room(room)
        for name, text in public_docstrings(module.tree, module.is_command)
        if (fault := fault_of(text))
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("room", rooms())
def test_functions_of_tensors_say_shapes_and_types(room):
    silent = [
        name
        for name, function in public_functions(room)
        if has_array(function) and not says_shape_and_type(ast.get_docstring(function) or "")
    ]
    assert not silent, "\n" + "\n".join(silent)


@pytest.mark.parametrize("room", rooms())
def test_functions_that_raise_say_what(room):
    silent = [
        f"{name} raises {', '.join(sorted(errors))}"
        for name, function in public_functions(room)
        if (errors := unsaid(function))
    ]
    assert not silent, "\n" + "\n".join(silent)


# The rules on small examples: they see what they are for.


@pytest.mark.parametrize(
    "text",
    [
        "Of one file.",
        "What layers read.",
        "By image.",
        "The same, on the device.",
        "The other way: pixels from images.",
        "Raises DataError for a damaged file.",
        "Its bits.",
        "Percent.",
        "float32 [N, C, H, W].",
        "0: no fine-tuning.",
        '"sgd": Nesterov momentum 0.9.',
        "None: it is exact.",
        "clip(rint(x / scale)): codes of values.",
        "Two words.",
        "A sentence that has no end",
        "",
    ],
)
def test_fragments_are_seen(text):
    assert fault_of(text)


@pytest.mark.parametrize(
    "text",
    [
        "Returns the top-1 accuracy in percent.",
        "The SHA-256 of a file's bytes, hexadecimal.",
        "Whether every integer agrees.",
        "Bytes of all files, by item.\n\nOf them, some.",
        "`scale` times the code.",
        "A first line that goes on\nin the second (all of it).",
        "torchvision's networks: their names.",
        "How many weights are held.",
        'The end of a sentence: "a", "a and b".',
    ],
)
def test_sentences_pass(text):
    assert fault_of(text) is None


def parsed(source):
    return ast.parse(source)


def test_public_docstrings_are_found_and_private_ones_are_not():
    tree = parsed(
        '"""M."""\nA = 1\n"""a"""\n_B = 2\n"""b"""\n'
        'class C:\n    """c"""\n    x: int\n    """x"""\n    def f(self):\n        """f"""\n'
        'class _D:\n    """d"""\n    def g(self):\n        """g"""\ndef _h():\n    """h"""\n'
    )
    assert dict(public_docstrings(tree)) == {"the module": "M.", "A": "a", "C": "c", "C.x": "x", "C.f": "f"}


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("x: Tensor", True),
        ("x: int) -> dict[str, Tensor]:\n  pass\ndef g(", True),
        ("*, x: 'NDArray[np.uint8] | None' = None", True),
        ("x: TensorParity", False),
        ("x: int", False),
    ],
)
def test_tensors_are_found_in_signatures(signature, expected):
    assert has_array(parsed(f"def f({signature}):\n  pass").body[0]) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Images, float32 [N, 3, H, W].", True),
        ("A scalar, float32.", True),
        ("Codes of any dtype and shape.", True),
        ("Images [N, 3, H, W].", False),
        ("Images, float32.", False),
        ("Images.", False),
    ],
)
def test_shapes_and_types_are_found(text, expected):
    assert says_shape_and_type(text) is expected


@pytest.mark.parametrize(
    ("docstring", "body", "expected"),
    [
        ("Loads.", "raise DataError('x')", {"DataError"}),
        ("Loads. Raises DataError for x.", "raise DataError('x')", set()),
        ("Loads. Raises DataError for x.", "if a:\n    raise UsageError('x') from None", {"UsageError"}),
        ("A DataError. Raises.", "raise DataError('x')", {"DataError"}),
        ("Loads.", "raise ValueError('x')", set()),
        ("Loads.", "def g():\n    raise DataError('x')", set()),
    ],
)
def test_raised_errors_are_found(docstring, body, expected):
    indented = body.replace("\n", "\n  ")
    assert unsaid(parsed(f'def f():\n  """{docstring}"""\n  {indented}').body[0]) == expected
