"""How a function's code reaches the container.

By reference (module and name, with the local source mounted) where its module can be imported; by value (cloudpickle) from
scripts, notebooks and local scopes. Installed packages are in the image and are never shipped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from hotbed_proto.errors import InvalidError, RequestSizeError, SerializationError

REMOTE_ROOT: Final = "/__hotbed/src"
SOURCE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger source folder is data rather than code."""
_SKIPPED_FOLDERS: Final = frozenset(
    {"__pycache__", ".git", ".venv", "venv", "node_modules", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)

_by_value: set[str] = set()


@dataclass(frozen=True, slots=True)
class Source:
    """A deterministic zip: equal files give an equal digest."""

    data: bytes
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.data).hexdigest())

    @property
    def remote_path(self) -> str:
        return f"{REMOTE_ROOT}/{self.digest}"


@dataclass(frozen=True, slots=True)
class Located:
    """Exactly one of `pickled` and `module` is set."""

    pickled: bytes
    module: str
    qualname: str
    sources: tuple[Source, ...]


def import_file(path: str | os.PathLike[str]) -> ModuleType:
    """Import a script so that its functions travel by value; its folder comes first on sys.path, as with `python FILE`.

    Raises:
        InvalidError: No such Python file.
    """
    file = Path(path).resolve()
    if file.suffix != ".py" or not file.is_file():
        raise InvalidError(f"{os.fspath(path)!r} is not a Python file", fix="give the path of a .py file, or -m and a module")
    folder = str(file.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = (
        file.stem
        if file.stem.isidentifier() and importlib.util.find_spec(file.stem) is not None
        else f"hotbed_script_{file.stem}"
    )
    known = sys.modules.get(file.stem)
    if known is not None and Path(getattr(known, "__file__", "") or "/").resolve() != file:
        name = f"hotbed_script_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    mark_by_value(module)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def mark_by_value(module: ModuleType) -> None:
    """Everything defined in this module is pickled by value from now on."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(module)
    _by_value.add(module.__name__)


def locate(raw: Callable[..., Any], name: str, *, serialized: bool, include_source: bool) -> Located:
    """Decide how `raw` travels, and gather the source it needs.

    Raises:
        SerializationError: It must travel by value and cannot be pickled.
        RequestSizeError: Its source folder is larger than 64 MiB.
    """
    module_name = getattr(raw, "__module__", None) or "__main__"
    qualname = getattr(raw, "__qualname__", "")
    module = sys.modules.get(module_name)
    importable = module is not None and getattr(module, "__spec__", None) is not None and module_name != "__main__"
    by_value = serialized or not importable or module_name in _by_value or "<locals>" in qualname or "<lambda>" in qualname
    if not by_value:
        top = module_name.partition(".")[0]
        root = _root_of(top)
        sources = (_zip_modules(_local_modules(root) | {top}, root),) if include_source and root is not None else ()
        return Located(b"", module_name, qualname, sources)
    root = _script_root(module)
    names = _local_modules(root) - {n.partition(".")[0] for n in _by_value} if include_source and root is not None else set()
    sources = (_zip_modules(names, root),) if names and root is not None else ()
    return Located(_pickle_function(raw, name), "", "", sources)


def _pickle_function(raw: Callable[..., Any], name: str) -> bytes:
    import cloudpickle

    module = sys.modules.get(getattr(raw, "__module__", None) or "")
    # `serialized=True` asks for by value, also where cloudpickle would find the module importable.
    temporarily = module is not None and module.__name__ != "__main__" and module.__name__ not in _by_value
    try:
        if temporarily:
            assert module is not None
            cloudpickle.register_pickle_by_value(module)
        return cloudpickle.dumps(raw, protocol=5)
    except Exception as error:  # a user's __reduce__ may raise anything
        raise SerializationError(
            f"function {name!r} cannot be pickled",
            why=f"{type(error).__name__}: {error}",
            fix="make what it refers to (locks, open files, clients) inside the function",
        ) from error
    finally:
        if temporarily:
            assert module is not None
            cloudpickle.unregister_pickle_by_value(module)


def _installed_roots() -> list[str]:
    paths = sysconfig.get_paths()
    roots = {os.path.realpath(paths[key]) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {os.path.realpath(entry) for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))}
    return sorted(roots)


def _is_installed(file: str) -> bool:
    real = os.path.realpath(file)
    return any(real.startswith(root + os.sep) for root in _installed_roots())


def _module_path(module: ModuleType) -> str | None:
    """Its file, or its folder for a package."""
    file = getattr(module, "__file__", None)
    if file:
        return os.path.dirname(file) if os.path.basename(file).startswith("__init__.") else file
    for folder in getattr(module, "__path__", ()):
        return str(folder)
    return None


def _root_of(top: str) -> str | None:
    """The folder on sys.path that holds a local top-level package; None for installed ones and hotbed itself."""
    module = sys.modules.get(top)
    path = _module_path(module) if module is not None else None
    if path is None or top in ("hotbed", "hotbed_proto") or _is_installed(path):
        return None
    return os.path.dirname(os.path.realpath(path))


def _script_root(module: ModuleType | None) -> str | None:
    file = getattr(module, "__file__", None)
    if not file or _is_installed(file):
        return None
    parts = (module.__name__ if module is not None else "").count(".")
    folder = Path(os.path.realpath(file)).parent
    for _ in range(parts):
        folder = folder.parent
    return str(folder)


def _local_modules(root: str | None) -> set[str]:
    """Top-level names of loaded modules that lie in this folder."""
    found: set[str] = set()
    if root is None:
        return found
    for name, module in list(sys.modules.items()):
        if "." in name or name in ("__main__", "hotbed", "hotbed_proto") or not isinstance(module, ModuleType):
            continue
        path = _module_path(module)
        if path is not None and path and os.path.dirname(os.path.realpath(path)) == root and not _is_installed(path):
            found.add(name)
    return found


def _zip_modules(names: Iterable[str], root: str) -> Source:
    files: list[tuple[str, str]] = []
    for name in sorted(names):
        module = sys.modules.get(name)
        path = _module_path(module) if module is not None else None
        if path is None:
            continue
        if os.path.isdir(path):
            for folder, folders, entries in os.walk(path):
                folders[:] = sorted(f for f in folders if f not in _SKIPPED_FOLDERS)
                for entry in sorted(entries):
                    full = os.path.join(folder, entry)
                    if not entry.endswith(".pyc") and os.path.isfile(full):
                        files.append((os.path.join(name, os.path.relpath(full, path)), full))
        else:
            files.append((os.path.basename(path), path))
    total = sum(os.path.getsize(full) for _, full in files)
    if total > SOURCE_BYTES_MAX:
        raise RequestSizeError(
            f"the source of {', '.join(sorted(names))} is {total >> 20} MiB, more than {SOURCE_BYTES_MAX >> 20} MiB",
            why=f"all files below {root} of these packages are shipped",
            fix="move data out of the package, or use include_source=False",
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, full in files:
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, Path(full).read_bytes())
    return Source(buffer.getvalue())
