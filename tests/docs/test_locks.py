"""The lists of pinned dependencies: each file has a hash, and no list names a host."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = {
    "constraints.txt": ("service", "embedded", "dev", "docs"),
    "api/deployment/requirements.txt": ("service",),
}


def entries(path: str) -> dict[str, tuple[str, list[str]]]:
    """Return the version and the hashes of each package in a list."""
    found = {}
    for entry in (ROOT / path).read_text().replace("\\\n", " ").splitlines():
        name, version, rest = re.fullmatch(r"([\w.-]+)==([\w.+!-]+)(.*)", entry).groups()
        assert re.fullmatch(r"( ; [^:]*?)?(\s+--hash=sha256:[0-9a-f]{64})+\s*", rest), name
        found[name] = (version, re.findall(r"sha256:(\w+)", rest))
    return found


@pytest.mark.parametrize("path", LOCKS)
def test_each_package_is_pinned_with_hashes_and_no_host_is_named(path):
    """Nothing else is in a line; setuptools, which builds the package, is pinned, too."""
    found = entries(path)
    assert all(hashes for _, hashes in found.values())
    assert "setuptools" in found
    assert "://" not in (ROOT / path).read_text()


@pytest.mark.parametrize(("path", "extras"), LOCKS.items())
def test_each_dependency_of_the_project_is_listed(path, extras):
    """pip would report it late: it installs from the list, without dependencies."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"]]
    for extra in extras:
        named += project["optional-dependencies"][extra]
    wanted = {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in named}
    assert wanted - {"activity-tracker"} <= entries(path).keys()


def test_both_lists_pin_the_same_versions():
    """What is tested is what is deployed."""
    tested, deployed = (entries(path) for path in LOCKS)
    assert deployed.items() <= tested.items()


def test_only_listed_files_are_installed():
    """By `make install`, which CI calls, and in the image."""
    makefile = (ROOT / "Makefile").read_text()
    image = (ROOT / "api" / "deployment" / "Containerfile").read_text()
    assert "--require-hashes -r constraints.txt" in makefile
    assert image.count("pip install") == image.count("--no-deps") == 2
    assert "--require-hashes" in image
    assert "--no-build-isolation" in image
