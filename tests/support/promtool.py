"""Prometheus's own checks, by the `promtool` of its Debian package: see `make packages`."""

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: run `make packages` as root"
)


def promtool(*command: str | Path, given: str = "") -> str:
    """Run promtool, and return what it finds wrong; nothing when all is well."""
    done = subprocess.run(
        [PROMTOOL, *command], input=given, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout + done.stderr if done.returncode else ""
