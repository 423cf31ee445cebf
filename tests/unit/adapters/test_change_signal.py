"""The file by which processes on one machine tell each other that a cached key has changed."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend.adapters.memory.change_signal import FileSignal, NoSignal
from backend.domain.errors import EnforcementUnavailable


def test_each_ring_of_somebody_else_moves_the_position(tmp_path: Path) -> None:
    mine, theirs = FileSignal(tmp_path / "db.epoch"), FileSignal(tmp_path / "db.epoch")
    seen = [mine.position()]
    for _ in range(3):
        theirs.ring()
        seen.append(mine.position())
    assert len(set(seen)) == 4


def test_a_ring_of_ones_own_does_not(tmp_path: Path) -> None:
    mine, theirs = FileSignal(tmp_path / "db.epoch"), FileSignal(tmp_path / "db.epoch")
    theirs.ring()
    before = mine.position()
    mine.ring()
    assert mine.position() == before
    theirs.ring()
    assert mine.position() != before


def test_another_process_is_heard(tmp_path: Path) -> None:
    path = tmp_path / "db.epoch"
    mine = FileSignal(path)
    before = mine.position()
    program = (
        "import sys; from pathlib import Path; from backend.adapters.memory.change_signal import FileSignal; "
        "FileSignal(Path(sys.argv[1])).ring()"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    assert mine.position() != before


def test_a_file_that_was_replaced_is_another_position(tmp_path: Path) -> None:
    path = tmp_path / "db.epoch"
    mine, theirs = FileSignal(path), FileSignal(path)
    theirs.ring()
    before = mine.position()
    path.rename(tmp_path / "kept")
    FileSignal(path).ring()
    assert mine.position() != before


def test_who_cannot_be_told_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(EnforcementUnavailable):
        FileSignal(tmp_path / "no such folder" / "db.epoch").ring()


def test_silence_never_moves() -> None:
    signal = NoSignal()
    before = signal.position()
    signal.ring()
    assert signal.position() == before
