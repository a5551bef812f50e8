"""What Image.host() shows of a host: planned on made-up folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hotbed.node.mounts import make_target
from hotbed_images.host import build_skeleton, plan, python_prefixes
from hotbed_proto.errors import InvalidError


def _host(root: Path) -> Path:
    for name in ("usr/bin", "lib64", "etc/ssl/certs", "home/me/.ssh", "home/me/venv/bin"):
        (root / name).mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    (root / "etc/shadow").write_text("secret")
    return root


def test_links_are_reproduced_and_folders_mounted(tmp_path: Path) -> None:
    host = _host(tmp_path / "host")
    mounts = plan([host / "home/me/venv"], host_root=host)
    assert {"/usr", "/lib64", "/etc/ssl/certs", str(host / "home/me/venv")} == {mount.target for mount in mounts}
    root = tmp_path / "skeleton"
    root.mkdir()
    build_skeleton(root, mounts, host_root=host)
    assert (root / "bin").is_symlink()
    assert not (root / "etc/shadow").exists()
    assert not list(root.rglob(".ssh"))
    assert (root / str(host / "home/me/venv").lstrip("/")).is_dir()
    assert "secret" not in (root / "etc/passwd").read_text()


@pytest.mark.parametrize("prefix", ["/", "/root", "/home", "/home/me", "/etc", "/var"])
def test_a_prefix_that_would_show_too_much_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="would show all of"):
        plan([Path(prefix)], host_root=tmp_path)


def test_a_prefix_below_usr_needs_no_mount_of_its_own() -> None:
    assert [mount.target for mount in plan([Path("/usr")]) if mount.target.startswith("/usr")] == ["/usr"]


def test_the_prefixes_of_a_virtual_environment_hold_its_base(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    prefixes = python_prefixes(tmp_path / "venv/bin/python")
    assert tmp_path / "venv" in prefixes
    assert Path(sys.base_prefix) in prefixes


def test_an_interpreter_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="does not run"):
        python_prefixes(tmp_path / "no-python")


def test_mount_targets_never_follow_links(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "file").touch()
    assert make_target(tmp_path, "/a/b", folder=True).is_dir()
    assert make_target(tmp_path, "/a/c", folder=False).is_file()
    assert make_target(tmp_path, "/a/b", folder=True) == tmp_path / "a/b"
    for target in ("/out", "/out/x", "/file/x", "/file", "relative", "/../x", "/"):
        with pytest.raises(InvalidError):
            make_target(tmp_path, target, folder=True)
