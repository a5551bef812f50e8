"""The OCI document and the seccomp list, as data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hotbed.node import oci_spec, seccomp
from hotbed.node.backend import ContainerSpec

SPEC = ContainerSpec("co-1", ["/bin/true"], {"A": "b=c"}, "/", [], 0, 1, 2, memory_bytes=1 << 20, milli_cpu=1500, pids=7)


def _config(spec: ContainerSpec = SPEC, **options: Any) -> dict[str, Any]:
    given = {"root": Path("/r"), "user_base": 1 << 28, "cgroup_path": "/h/co-1", "shm_bytes": 4096, "swap_limited": True}
    return oci_spec.config(spec, **(given | options))


def test_limits() -> None:
    resources = _config()["linux"]["resources"]
    assert resources["memory"] == {"limit": 1 << 20, "swap": 1 << 20}
    assert resources["cpu"] == {"quota": 150_000, "period": 100_000}
    assert resources["pids"] == {"limit": 7}
    assert resources["devices"] == [{"allow": False, "access": "rwm"}]
    free = _config(replace(SPEC, memory_bytes=0, milli_cpu=0), swap_limited=False)["linux"]["resources"]
    assert "memory" not in free
    assert "cpu" not in free
    assert _config(replace(SPEC, milli_cpu=1))["linux"]["resources"]["cpu"]["quota"] == 1000, "the kernel's least quota"
    assert "swap" not in _config(swap_limited=False)["linux"]["resources"]["memory"]


def test_nothing_is_given_that_was_not_asked_for() -> None:
    document = _config()
    process = document["process"]
    assert process["env"] == ["A=b=c"]
    assert process["noNewPrivileges"] is True
    assert all(kinds == [] for kinds in process["capabilities"].values())
    assert not [mount for mount in document["mounts"] if mount["type"] in ("bind", "cgroup", "cgroup2")]
    assert {one["type"] for one in document["linux"]["namespaces"]} == {
        "pid",
        "ipc",
        "uts",
        "mount",
        "user",
        "cgroup",
        "network",
    }
    assert document["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1 << 28, "size": 65536}]


def test_the_hosts_network_brings_no_sysfs() -> None:
    document = _config(replace(SPEC, network="full"))
    assert "network" not in {one["type"] for one in document["linux"]["namespaces"]}
    assert "/sys" not in {mount["destination"] for mount in document["mounts"]}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_the_list_denies_by_default_and_names_each_call_once(machine: str) -> None:
    profile = seccomp.profile(machine)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(profile["architectures"]) == 1
    plain = [name for rule in profile["syscalls"] if "args" not in rule for name in rule["names"]]
    assert len(plain) == len(set(plain))
    conditional = {name for rule in profile["syscalls"] if "args" in rule for name in rule["names"]}
    assert conditional == {"clone", "socket", "personality"}
    assert not conditional & set(plain)


@pytest.mark.parametrize("name", ["mount", "unshare", "setns", "ptrace", "bpf", "keyctl", "io_uring_setup", "userfaultfd"])
def test_dangerous_calls_are_not_allowed(name: str) -> None:
    allowing = [rule for rule in seccomp.profile("x86_64")["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
    assert allowing
    assert all(name not in rule["names"] for rule in allowing)


def test_an_architecture_without_a_list_is_refused() -> None:
    assert not seccomp.supported("sparc64")
    with pytest.raises(KeyError):
        seccomp.profile("sparc64")
