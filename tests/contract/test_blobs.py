"""Blob store: one set of promises for every kind of fsspec store."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import fsspec
import pytest
import zstandard

from hotbed_proto.errors import DeserializationError, InvalidError, NotFoundError, RequestSizeError
from hotbed_scheduler.blobs import BlobStore


@pytest.fixture(params=["directory", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "blobs") if request.param == "directory" else f"memory://{tmp_path.name}-{os.getpid()}"


def path_of(url: str, digest: str) -> tuple[fsspec.AbstractFileSystem, str]:
    fs, root = fsspec.core.url_to_fs(url)
    return fs, f"{root.rstrip('/')}/{digest[7:9]}/{digest[9:]}"


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3 * 2**20 + 17), b"\0" * 5 * 2**20])
def test_what_goes_in_comes_out(url: str, data: bytes) -> None:
    store = BlobStore(url)
    digest = store.put(data)
    assert digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert store.get(digest) == data
    assert store.size(digest) == len(data)
    assert store.put(data) == digest
    assert store.missing([digest, "sha256:" + "0" * 64]) == ["sha256:" + "0" * 64]


def test_unknown_and_malformed_names(url: str) -> None:
    store = BlobStore(url)
    with pytest.raises(NotFoundError):
        store.get("sha256:" + "0" * 64)
    for name in ("sha256:../../etc/passwd", "", "sha256:" + "A" * 64, "md5:00"):
        with pytest.raises(InvalidError):
            store.has(name)


def test_declared_size_and_digest_hold(url: str) -> None:
    store = BlobStore(url, size_max=1000)
    with pytest.raises(RequestSizeError):
        store.writer(1001)
    with pytest.raises(RequestSizeError), store.writer(3) as writer:
        writer.write(b"four")
    with pytest.raises(InvalidError), store.writer(5) as writer:
        writer.write(b"four")
    with pytest.raises(InvalidError), store.writer(4, "sha256:" + "0" * 64) as writer:
        writer.write(b"four")
    fs, root = fsspec.core.url_to_fs(url)
    assert fs.find(f"{root.rstrip('/')}") == [], "nothing is left of refused uploads"


def test_damage_is_found(url: str) -> None:
    store = BlobStore(url)
    digest = store.put(b"good bytes")
    fs, path = path_of(url, digest)
    other = zstandard.ZstdCompressor().compress(b"evil bytes")
    with fs.open(path, "wb") as file:
        file.write(b"hotbed1\n" + (10).to_bytes(8, "little") + other)
    with pytest.raises(DeserializationError, match="damaged"):
        store.get(digest)


def test_a_bomb_ends_at_its_declared_size(url: str) -> None:
    store = BlobStore(url)
    digest = store.put(b"small")
    fs, path = path_of(url, digest)
    with fs.open(path, "wb") as file:
        file.write(b"hotbed1\n" + (5).to_bytes(8, "little") + zstandard.ZstdCompressor().compress(b"\0" * 100_000_000))
    with pytest.raises(DeserializationError, match="more than"):
        list(store.parts(digest))
