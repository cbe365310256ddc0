"""Gives the tests of the embedded server a data directory, of which each gets a copy."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded_data import copied_data_dir, short_folder, used_data_dir


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    with used_data_dir() as template:
        yield template


@pytest.fixture
def data_dir(folder: Path, template: Path) -> Path:
    return copied_data_dir(template, folder)
