"""A Python as a device has it: the standard library, and the named packages of this environment, by links."""

import hashlib
import importlib.util
import json
import stat
import sys
from pathlib import Path

ONNX_RUNTIME = ("numpy", "onnxruntime", "flatbuffers", "google", "packaging")


def linked(folder, packages):
    """A folder with these packages of this environment, and the libraries beside them."""
    for name in packages:
        (place,) = list(importlib.util.find_spec(name).submodule_search_locations)[:1]
        for path in (Path(place), Path(place).with_name(f"{name}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder


def make(folder, packages):
    """The path of a script that is this interpreter, with nothing else to import."""
    site = Path(folder) / "site"
    site.mkdir(parents=True)
    linked(site, packages)
    script = Path(folder) / "python3"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} -S -s "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return str(script)


def change_expected(folder):
    """One expected code of a bundle is another one, and its manifest says so."""
    import numpy as np

    manifest = Path(folder) / "manifest.json"
    values = json.loads(manifest.read_text())
    name = values["check"]["expected"]
    path = Path(folder) / name
    with np.load(path) as arrays:
        changed = dict(arrays)
    first = next(key for key in changed if key.startswith("codes"))
    codes = changed[first].copy()
    codes.flat[5] += 1
    np.savez(path, **changed | {first: codes})
    data = path.read_bytes()
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if isinstance(values["files"], dict):
        values["files"][name] = entry
    manifest.write_text(json.dumps(values))
