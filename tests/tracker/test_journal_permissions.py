"""Who may write to a journal: this user alone, because its touches go to the database."""

import os
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.journal_files import segments, tracker
from tests.support.sample_table import AT, locking
from tracker import ConfigurationError
from tracker._journal.format import SEGMENT_BYTES

OTHER = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


async def orphan_touches(dsn: str, directory: Path) -> Path:
    """Leave a touch behind for the next process, in one segment."""
    async with locking(dsn, "LOCK TABLE things"), tracker(dsn, directory).running() as gone:
        gone.touch("things", 1, AT)
    for spare in segments(directory)[1:]:
        spare.unlink()
    (segment,) = segments(directory)
    return segment


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022])
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_a_journal_is_private_whatever_the_umask(dsn, things, tmp_path):
    """Directories are 0700 and files 0600, because keys may be personal data."""
    segment = await orphan_touches(dsn, tmp_path / "journal")
    assert mode(segment) == 0o600
    assert {mode(segment.parent), mode(tmp_path / "journal")} == {0o700}
    assert all(mode(path) == 0o600 for path in segment.parent.iterdir())


async def recovered(dsn: str, directory: Path) -> tuple[int, int, list[str]]:
    """Return how many touches and foreign segments a start finds, and the reasons."""
    with capture_logs() as logs:
        async with tracker(dsn, directory).running() as started:
            touches, foreign = started._recovery.recovered["things"], started.foreign_segments
    return touches, foreign, [e["error"] for e in logs if e["event"] == "journal.foreign"]


@ROOT_ONLY
@pytest.mark.parametrize("whose", ["segment", "directory"])
async def test_what_another_user_made_is_not_recovered(dsn, things, tmp_path, whose):
    """It is left alone, counted, and reported with the user's id."""
    segment = await orphan_touches(dsn, tmp_path)
    os.chown(segment if whose == "segment" else segment.parent, OTHER, OTHER)
    touches, foreign, (reason,) = await recovered(dsn, tmp_path)
    assert (touches, foreign) == (0, 1)
    assert "belongs to another user (id 65534)" in reason
    assert segment in segments(tmp_path)


async def test_a_segment_that_everyone_could_write_to_is_not_recovered(dsn, things, tmp_path):
    """Its touches may be forged."""
    segment = await orphan_touches(dsn, tmp_path)
    segment.chmod(0o666)
    touches, foreign, (reason,) = await recovered(dsn, tmp_path)
    assert (touches, foreign, "every user can write to it" in reason) == (0, 1, True)


async def test_modes_of_an_older_version_are_tightened(dsn, things, tmp_path):
    """They were those of the umask; the touches are recovered."""
    segment = await orphan_touches(dsn, tmp_path)
    segment.chmod(0o664)
    segment.parent.chmod(0o775)
    tmp_path.chmod(0o775)
    assert await recovered(dsn, tmp_path) == (1, 0, [])
    assert mode(tmp_path) == 0o755


async def test_a_huge_segment_is_not_read(dsn, things, tmp_path):
    """It is none of ours; a sparse file would take memory that the disk does not have to hold."""
    segment = await orphan_touches(dsn, tmp_path)
    os.truncate(segment, SEGMENT_BYTES + 1)
    touches, foreign, (reason,) = await recovered(dsn, tmp_path)
    assert (touches, foreign, "larger than any" in reason) == (0, 1, True)


async def test_a_link_instead_of_a_segment_is_not_followed(dsn, things, tmp_path):
    """Even if it leads to a segment of ours."""
    segment = await orphan_touches(dsn, tmp_path / "journal")
    segment.rename(tmp_path / "elsewhere")
    segment.symlink_to(tmp_path / "elsewhere")
    assert (await recovered(dsn, tmp_path / "journal"))[0] == 0
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("case", [pytest.param("owner", marks=ROOT_ONLY), "mode"])
async def test_a_parent_directory_of_other_users_is_rejected(tmp_path, case):
    """The start says why, and what to do."""
    if case == "owner":
        os.chown(tmp_path, OTHER, OTHER)
    else:
        tmp_path.chmod(0o777)
    with pytest.raises(ConfigurationError, match="by this user alone, or do without"):
        async with tracker("postgresql://nobody@127.0.0.1:1/no", tmp_path).running():
            pass
