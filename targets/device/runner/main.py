"""The command line."""

import argparse
import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import List, Optional, Sequence

from .arrays import HAS_NUMPY
from .base import LARGEST_BATCH, Problem, one_line, say
from .checking import check
from .choosing import RUNTIMES, Json, choose, surprises
from .commands import bench, build, classify, predict
from .doctor import doctor, doctor_lines
from .manifest import open_bundle

HERE = Path(__file__).resolve().parent if "__file__" in globals() else Path.cwd()
"""The bundle's folder; what is read from standard input is in none."""
_COMMANDS = {"build": build, "check": check, "bench": bench, "classify": classify, "predict": predict}


def arguments() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(prog="run.py", description="Runs the quantized network of this folder.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    helps = {
        "doctor": "what is here, what is missing, and the remedy",
        "build": "TensorRT's engines for this GPU",
        "check": "compare the integers that are computed here with the expected ones",
        "bench": "how long one batch takes",
        "classify": "the five likeliest classes of images",
        "predict": "the classes of prepared images on standard input: raw numbers, as the network takes them",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--json", action="store_true", help="print JSON alone")
        command.add_argument("--cache", type=Path, default=HERE / "cache", help="where engines are kept")
        if name != "doctor":
            command.add_argument("--runtime", choices=RUNTIMES, help="default: the first that is here")
            command.add_argument("--threads", type=_count, default=0, help="of ONNX Runtime; default: it decides")
        if name == "bench":
            command.add_argument("--batch", type=_batch, default=LARGEST_BATCH, help="beside 1; at most 8")
            command.add_argument("--runs", type=_count, default=200, help="default: 200")
        if name == "classify":
            command.add_argument("images", nargs="+", metavar="IMAGE", help="an image file, or an .npy of uint8 pixels")
    return parser


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _batch(text: str) -> int:
    value = _count(text)
    if value > LARGEST_BATCH:
        raise argparse.ArgumentTypeError(f"{value} is more than engines take, {LARGEST_BATCH}")
    return value


def run(options: argparse.Namespace) -> int:
    """Runs one command, and gives the exit code. Raises Problem where it cannot be done."""
    if options.command == "doctor":
        findings = doctor(HERE, options.cache)
        ready = not any(finding.needed for finding in findings)
        values = {"command": "doctor", "ready": ready, "findings": [finding._asdict() for finding in findings]}
        _print(values, doctor_lines(findings, ready), options.json)
        return 0 if ready else 1
    bundle = open_bundle(HERE)
    if not HAS_NUMPY:
        raise Problem("numpy is missing: sudo apt install python3-numpy, or pip install numpy.")
    choice = choose(bundle, options.runtime, options.threads)
    unexpected = [] if options.json else surprises(bundle, choice)
    if unexpected:
        say(f"passed over: {'; '.join(unexpected)}.")
    result = _COMMANDS[options.command](bundle, choice, options)
    _print({"command": options.command, **choice.values(), **result.values}, result.lines, options.json)
    for error in result.errors:
        say(f"Error: {error}")
    return result.exit_code


def _print(values: Json, lines: Sequence[str], as_json: bool) -> None:
    for line in [json.dumps(values, indent=1)] if as_json else lines:
        print(line)


def main(words: Optional[List[str]] = None) -> int:
    """Runs the command line, and gives the exit code; every error is one sentence on standard error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and classes may be in another script than it takes
            stream.reconfigure(errors="backslashreplace")
    parser = arguments()
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        code = run(options)
        if sys.stdout is not None:  # as it is where a shell closed it
            sys.stdout.flush()
        return code
    except Problem as problem:
        say(f"Error: {problem}")
    except BrokenPipeError:  # whoever reads has enough; else Python would say so once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except OSError as error:
        where = "" if error.filename is None else f" ({error.filename})"
        say(f"Error: the system refused{where}: {error.strerror or error}; make room, or choose another place.")
    except MemoryError:
        say("Error: memory did not suffice: end other programs, and run it again.")
    except Exception as error:  # what no line above foresees; its place is what a report is worth most with
        steps = traceback.extract_tb(error.__traceback__)
        line = [step.lineno for step in steps if step.filename == main.__code__.co_filename][-1]
        say(
            f"Error: unexpected {type(error).__name__} ({one_line(error)}) at line {line} of run.py: a fault of run.py "
            "or of the runtime, report it with what `python3 run.py doctor --json` says."
        )
    return 1


if __name__ == "__main__":
    sys.exit(main())
