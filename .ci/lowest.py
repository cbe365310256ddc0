"""Prints the lowest versions that pyproject.toml admits, as constraints for pip.

Usage: python .ci/lowest.py [EXTRA ...]. Without an extra, it prints those of the library. Where
an extra asks for more than the library, the extra's minimum is printed.
"""

import re
import sys
import tomllib
from pathlib import Path


def lowest(requirements: list[str]) -> dict[str, str]:
    """Return the minimum of each package.

    Args:
        requirements: such as `rich>=13.9.4` or `sqlalchemy[asyncio]>=2.0`; of two for one package,
            the last counts.

    Raises:
        ValueError: a requirement has no minimum.
    """
    minima = {}
    for requirement in requirements:
        parts = re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)$", requirement)
        if parts is None:
            raise ValueError(f"a requirement without a minimum: {requirement}")
        minima[parts[1]] = parts[2]
    return minima


if __name__ == "__main__":
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [r for extra in sys.argv[1:] for r in project["optional-dependencies"][extra]]
    for name, version in lowest(project["dependencies"] + extras).items():
        sys.stdout.write(f"{name}=={version}\n")
