"""What a worker finds below `/__hotbed/lib`, and the users' source archives, both unpacked once a node."""

from __future__ import annotations

import compileall
import importlib.util
import os
import py_compile
import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from hotbed_proto.errors import InvalidError

_LIB_PACKAGES = ("hotbed", "hotbed_proto", "cloudpickle")


def build_worker_lib(folder: Path) -> Path:
    """Copy the packages a worker imports and compile them with unchecked hashes (no stat of sources at boot). About 0.3 s."""
    building = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    for package in _LIB_PACKAGES:
        spec = importlib.util.find_spec(package)
        assert spec is not None, package
        locations = list(spec.submodule_search_locations or ())
        assert locations, package
        shutil.copytree(
            locations[0], building / package, ignore=shutil.ignore_patterns("__pycache__", "node", "cli", "*.proto")
        )
    compileall.compile_dir(building, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH, force=True)
    for path in [building, *building.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder, ignore_errors=True)
    building.rename(folder)
    return folder


def unpack_source(archive: Path, target: Path, *, bytes_max: int, files_max: int) -> None:
    """Unpack a zip of regular files into a new folder; all or nothing.

    Raises:
        InvalidError: A name that leads outside, a link or device, or more than the limits; quotes the entry.
    """
    building = target.with_name(f"{target.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True, mode=0o755)
    try:
        with zipfile.ZipFile(archive) as bundle:
            entries = bundle.infolist()
            if len(entries) > files_max:
                raise InvalidError(f"a source archive has {len(entries)} entries, more than {files_max}")
            left = bytes_max
            for entry in entries:
                left = _unpack_entry(bundle, entry, building, left)
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
        shutil.rmtree(building, ignore_errors=True)
        raise InvalidError("a source archive cannot be unpacked", why=str(error)) from error
    except InvalidError:
        shutil.rmtree(building, ignore_errors=True)
        raise
    building.rename(target)


def _unpack_entry(bundle: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    name = entry.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or not path.parts:
        raise InvalidError(f"a source archive has the entry {name[:100]!r}, which leads outside of it")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InvalidError(f"a source archive has the entry {name[:100]!r}, which is neither a file nor a folder")
    target = folder.joinpath(*path.parts)
    if entry.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return left
    target.parent.mkdir(parents=True, exist_ok=True)
    with bundle.open(entry) as source, open(target, "xb") as sink:
        while data := source.read(256 * 1024):  # counted as it comes: the size in the header may be a lie
            left -= len(data)
            if left < 0:
                raise InvalidError(f"a source archive unpacks to more than the limit, at {name[:100]!r}")
            sink.write(data)
    os.chmod(target, 0o644)
    return left
