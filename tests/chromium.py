"""A page in headless Chromium, to test what its own script does."""

import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")


def title_after(page: Path, actions: str, *flags: str) -> str:
    """The title that `actions`, JavaScript run when a copy of the page has loaded, left there."""
    content = page.read_text(encoding="utf-8")
    copy = page.with_name(f"driven {page.name}")  # beside it, for its relative addresses
    script = f"<script>addEventListener('load', () => {{{actions}}})</script></body>"
    copy.write_text(content.replace("</body>", script), encoding="utf-8")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", profile, *flags, "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, copy.as_uri()], capture_output=True, text=True, timeout=120).stdout
    return unescape(re.search("<title>(.*?)</title>", dom)[1])
