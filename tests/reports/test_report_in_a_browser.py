"""The page of ``report`` in headless Chromium: nothing complains, everything is drawn and reached.

Whether people can use it is asked of axe-core (`npm install axe-core`, in the checkout or where
``AXE_CORE`` says).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from base64 import b64decode
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from results import arguments, hostile_folder

from sepdeploy.cli import run

ROOT = Path(__file__).resolve().parents[2]
AXE = Path(os.environ.get("AXE_CORE", ROOT / "node_modules/axe-core")) / "axe.min.js"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--enable-logging=stderr", "--virtual-time-budget=20000",
)  # fmt: skip
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium"),
    pytest.mark.skipif(find_spec("vl_convert") is None, reason="no vl-convert-python"),
]
# What the page looks like from inside: a copy of it runs this, without its content policy.
LOOK = """
const box = e => { const r = e.getBoundingClientRect(); return [r.width, r.height]; };
document.documentElement.style.width = "390px";
const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg, pre")
  && !e.matches(".skip") && e.getBoundingClientRect().right > 391).map(e => e.outerHTML);
document.documentElement.style.width = "";
const charts = [...document.querySelectorAll("figure svg")].map(e =>
  ({box: box(e), marks: e.querySelectorAll(".mark-symbol path, .mark-rect path, .mark-line path")
    .length, texts: [...e.querySelectorAll("text")].map(t => box(t)[0])}));
const ink = getComputedStyle(document.querySelector("figure svg text")).fill;
answer({wide, charts, ink, paper: getComputedStyle(document.body).backgroundColor,
        pictures: [...document.images].map(i => i.naturalWidth)});
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    words = [*arguments(hostile_folder(folder)), "-o", folder / "page.html", "-q"]
    assert run([str(w) for w in words]) == 0
    return folder / "page.html"


def opened(page: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page with an empty profile and return it as it stands then."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *flags]
    return subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )


def asked(page: Path, profile: Path, script: str, *flags: str) -> Any:
    """Run a script in a copy of the page, and return what it gives to ``answer``."""
    text = page.read_text("utf-8")
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    give = "function answer(a) { document.title = 'ANSWER' + btoa(JSON.stringify(a)); }\n"
    copy = page.with_name("asked.html")
    copy.write_text(text + f"<script>{give}{script}</script>", "utf-8")
    found = re.search("<title>ANSWER(.*?)</title>", opened(copy, profile, *flags).stdout)
    assert found is not None
    return json.loads(b64decode(found[1]))


def test_nothing_complains(page: Path, tmp_path: Path) -> None:
    done = opened(page, tmp_path)
    assert "Environment and commands" in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []


@pytest.mark.parametrize("dark", [False, True])
def test_everything_is_drawn_and_fits_a_phone(page: Path, tmp_path: Path, dark: bool) -> None:
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    seen = asked(page, tmp_path, LOOK, *flags)
    assert len(seen["charts"]) == 10
    for chart in seen["charts"]:
        assert min(chart["box"]) > 100
        assert chart["marks"] >= 2
        assert len(chart["texts"]) > 3
    assert all(width == 8 for width in seen["pictures"])
    assert seen["wide"] == []
    light = [sum(map(int, re.findall(r"\d+", seen[part])[:3])) for part in ("ink", "paper")]
    assert (light[0] > light[1]) is dark
    assert abs(light[0] - light[1]) > 400


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm install --no-save axe-core")
@pytest.mark.parametrize("dark", [False, True])
def test_people_without_eyes_or_mouse_can_use_it(page: Path, tmp_path: Path, dark: bool) -> None:
    flags = ["--blink-settings=preferredColorScheme=0"] if dark else []
    script = AXE.read_text("utf-8") + (
        "\nfor (const d of document.querySelectorAll('details')) d.open = true;"
        "axe.run().then(r => answer({passes: r.passes.length, found: r.violations.map(v =>"
        "[v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 120))])}));"
    )
    seen = asked(page, tmp_path, script, *flags)
    assert seen["passes"] > 20
    assert [v for v in seen["found"] if v[0] in ("serious", "critical")] == []
