"""Libraries that are kept in the tree are what their authors have published."""

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).parents[2] / "api" / "page" / "vendor"
ROW = re.compile(r"^\| .+ \| `(.+)` \| `([0-9a-f]{64})` \|$", re.MULTILINE)


def test_vendored_files_equal_the_published_ones():
    """Every script has its hash on record, and its licence beside it."""
    recorded = dict(ROW.findall((VENDOR / "README.md").read_text(encoding="utf-8")))
    actual = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*.js")
    }
    assert actual == recorded
    for folder in {VENDOR / name.split("/")[0] for name in recorded}:
        assert "Copyright" in (folder / "LICENSE").read_text(encoding="utf-8")
