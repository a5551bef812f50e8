"""Hostile source archives and hostile result files are refused by name."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path

import pytest

from hotbed.node.logs import LogLimiter
from hotbed.node.payload_files import PayloadDir
from hotbed.node.sources import unpack_source
from hotbed_proto.errors import InvalidError


def archive(path: Path, entries: dict[str, bytes], mode: int = 0o644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in entries.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            bundle.writestr(info, data)
    return path


def test_a_good_archive_is_unpacked(tmp_path: Path) -> None:
    unpack_source(archive(tmp_path / "a.zip", {"pkg/m.py": b"x = 1"}), tmp_path / "t", bytes_max=100, files_max=5)
    assert (tmp_path / "t/pkg/m.py").read_text() == "x = 1"


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        ({"../evil": b""}, 0o644),
        ({"/etc/evil": b""}, 0o644),
        ({"link": b"/etc"}, stat.S_IFLNK | 0o777),
        ({"bomb": bytes(1000)}, 0o644),
        ({str(number): b"" for number in range(6)}, 0o644),
    ],
    ids=["traversal", "absolute", "symlink", "bomb", "many"],
)
def test_a_hostile_archive_is_refused_whole(tmp_path: Path, entries: dict[str, bytes], mode: int) -> None:
    with pytest.raises(InvalidError):
        unpack_source(archive(tmp_path / "a.zip", entries, mode), tmp_path / "t", bytes_max=100, files_max=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_result_files_must_be_regular_and_of_their_size(tmp_path: Path) -> None:
    payloads = PayloadDir(tmp_path / "p")
    out = payloads.make_container("co-abcdefgh1") / "out"
    (tmp_path / "secret").write_bytes(b"12345")
    (out / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(out / "fifo")
    (out / "good").write_bytes(b"12345")
    for name, size in [("link", 5), ("fifo", 0), ("good", 4), ("../../../secret", 5), ("missing", 1)]:
        with pytest.raises(InvalidError):
            payloads.open_result(out, name, size)
    descriptor = payloads.open_result(out, "good", 5)
    (out / "good").unlink()
    (out / "good").symlink_to(tmp_path / "secret")  # swapped after the check: the open file is what counts
    os.close(descriptor)


def test_log_limiter_grants_its_rate() -> None:
    limiter = LogLimiter(1000, 0.0)
    assert limiter.take(5000, 0.0) == 1000
    assert limiter.take(5000, 0.5) == 500
    assert limiter.take(100, 100.0) == 100
