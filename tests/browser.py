"""A real browser without a window, for pages that people open."""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_FRAMES = """<!doctype html><title>none</title><body><script>
const frames = WIDTHS.map(width => {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:800px;border:0`;
  frame.src = SOURCE;
  document.body.append(frame);
  return frame;
});
window.onload = () => {
  const seen = frames.map(frame => {
    frame.contentDocument.querySelectorAll("details").forEach(each => each.open = true);
    return frame.contentDocument.documentElement.scrollWidth;
  });
  document.title = JSON.stringify(seen);
};
</script>"""


def console_and_widths(file, widths):
    """Returns what a page makes the browser say on its console, and how wide the page is drawn at each width, in
    pixels. Skips the test where there is no Chromium.

    The page can reach no host: what it asks for would be an error on the console.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed (Debian: apt install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        frames = Path(folder) / "frames.html"
        source = json.dumps(Path(file).absolute().as_uri())
        frames.write_text(_FRAMES.replace("WIDTHS", json.dumps(list(widths))).replace("SOURCE", source))
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            f"--user-data-dir={folder}/profile",
            "--virtual-time-budget=5000",
            "--dump-dom",
            frames.as_uri(),
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(\[.*?\])</title>", result.stdout)
    assert title, result.stderr
    said = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    return said, dict(zip(widths, json.loads(title[1]), strict=True))
