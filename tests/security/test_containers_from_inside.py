"""One attempt for each known way out of a container, made from inside."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from hotbed.node.backend import Mount
from hotbed_proto.errors import InvalidError
from support.backends import Bench, with_bench

pytestmark = [pytest.mark.container, pytest.mark.root]
runtimes = pytest.mark.parametrize("name", ["oci-crun", "oci-runc"])

# `call` makes a system call by number and gives 0 or the errno; `attempt` does the same for a Python expression.
# ctypes needs no site-packages. Numbers are those of x86_64.
TOOLS = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    done = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in args])
    return 0 if done >= 0 else ctypes.get_errno()
def attempt(work):
    try: work()
    except OSError as error: return error.errno or -1
    return 0
"""
EPERM, EACCES, ENOSYS, EROFS, ENOENT = 1, 13, 38, 30, 2
on_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the system call numbers are those of x86_64")


async def _ask(bench: Bench, code: str, **options: object) -> object:
    return json.loads(await bench.run(TOOLS + code, **options))


def _refused(name: str, code: str, *errors: int) -> None:
    """`code` prints a JSON object of attempt to errno; every one must be refused, with one of `errors` if any are named."""

    async def body(bench: Bench) -> None:
        answers = await _ask(bench, code)
        assert isinstance(answers, dict)
        assert answers
        for what, number in answers.items():
            assert number != 0, f"{what} succeeded"
            assert not errors or number in errors, (what, os.strerror(number))

    with_bench(name, body)


@runtimes
def test_host_processes_are_not_visible(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "pids = [n for n in os.listdir('/proc') if n.isdecimal()]\n"
        code += "print(json.dumps([pids, os.getpid(), attempt(lambda: os.kill(2, 0))]))"
        assert await _ask(bench, code) == [["1"], 1, 3]

    with_bench(name, body)


@runtimes
def test_home_folders_and_the_rest_of_the_host_are_not_visible(name: str) -> None:
    async def body(bench: Bench) -> None:
        secret = bench.folder / "secret"
        secret.write_text("x")
        paths = [
            str(secret),
            "/etc/shadow",
            "/var/log",
            "/var/lib",
            "/boot",
            "/root/.ssh",
            "/root/.bashrc",
            "/run/systemd",
            __file__,
        ]
        code = f"print(json.dumps([[p for p in {paths!r} if os.path.exists(p)], os.listdir('/home'), os.listdir('/dev/shm')]))"
        assert await _ask(bench, code) == [[], [], []]

    with_bench(name, body)


@runtimes
def test_the_agents_environment_is_not_visible(name: str) -> None:
    async def body(bench: Bench) -> None:
        assert await bench.run("print(ascii(open('/proc/1/environ').read()))", env={"HOME": "/"}) == "'HOME=/\\x00'"

    with_bench(name, body)


@runtimes
def test_abstract_sockets_and_ports_of_others_are_out_of_reach(name: str) -> None:
    async def body(bench: Bench) -> None:
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0hotbed-test-{os.getpid()}")
        abstract.listen()
        port = socket.create_server(("127.0.0.1", 0))
        neighbour = (
            "s = socket.socket(socket.AF_UNIX); s.bind('\\0neighbour'); s.listen()\n"
            "print('up', flush=True); import time; time.sleep(60)"
        )
        await bench.until_output(await bench.start(TOOLS + neighbour), "up")
        code = (
            f"print(json.dumps([attempt(lambda: socket.socket(socket.AF_UNIX).connect(n))"
            f" for n in ('\\0hotbed-test-{os.getpid()}', '\\0neighbour')]"
            f" + [attempt(lambda: socket.create_connection(('127.0.0.1', {port.getsockname()[1]}), 2)),"
            f" attempt(lambda: socket.create_connection(('192.0.2.1', 80), 2))]))"
        )
        answers = await _ask(bench, code)
        assert answers == [111, 111, 111, 101], answers
        abstract.close()
        port.close()

    with_bench(name, body)


@runtimes
def test_writes_to_proc_and_sys(name: str) -> None:
    files = [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/kernel/modprobe",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/sys/kernel/uevent_helper",
        "/sys/power/state",
        "/sys/class/net/lo/mtu",
        "/usr/bin/hotbed-test",
    ]
    _refused(name, f"print(json.dumps({{f: attempt(lambda: open(f, 'w').write('1')) for f in {files!r}}}))")


@runtimes
def test_cgroups_cannot_be_written(name: str) -> None:
    async def body(bench: Bench) -> None:
        code = "print(json.dumps([os.listdir('/sys/fs'), os.path.exists('/sys/fs/cgroup/memory')]))"
        assert await _ask(bench, code) == [[], False]

    with_bench(name, body)


@on_x86
@runtimes
def test_mounting_is_refused(name: str) -> None:
    code = """
print(json.dumps({
    'mount': call(165, b'none', b'/tmp', b'tmpfs', 0, 0), 'remount /usr': call(165, b'none', b'/usr', 0, 32 | 4096, 0),
    'umount /proc/kcore': call(166, b'/sys/kernel', 2), 'pivot_root': call(155, b'/', b'/tmp'),
    'fsopen': call(430, b'tmpfs', 0),
    'move_mount': call(429, -100, b'/tmp', -100, b'/mnt', 0), 'open_tree': call(428, -100, b'/', 1),
    'chroot': call(161, b'/tmp'),
    'mount_setattr': call(442, -100, b'/usr', 0, 0, 0)}))"""
    _refused(name, code, EPERM)


@on_x86
@runtimes
def test_new_user_namespaces_are_refused(name: str) -> None:
    code = """
print(json.dumps({'unshare': call(272, 0x10000000), 'setns': call(308, 0, 0x10000000),
    'clone': call(56, 0x10000000 | 17, 0, 0, 0, 0), 'clone high bits': call(56, (1 << 33) | 0x10000000 | 17, 0, 0, 0, 0),
    'clone newpid': call(56, 0x20000000 | 17, 0, 0, 0, 0), 'clone3': call(435, b'\\0' * 88, 88)}))"""
    _refused(name, code, EPERM, ENOSYS)


@on_x86
@runtimes
def test_kernel_attack_surface_is_closed(name: str) -> None:
    calls = {
        "bpf": 321, "keyctl": 250, "add_key": 248, "request_key": 249, "ptrace": 101, "process_vm_readv": 310,
        "process_vm_writev": 311, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "kexec_load": 246,
        "kexec_file_load": 320, "init_module": 175, "finit_module": 313, "delete_module": 176, "open_by_handle_at": 304,
        "name_to_handle_at": 303, "syslog": 103, "reboot": 169, "swapon": 167, "acct": 163, "settimeofday": 164,
        "sethostname": 170, "iopl": 172, "ioperm": 173, "pidfd_getfd": 438, "kcmp": 312, "fanotify_init": 300, "quotactl": 179,
    }  # fmt: skip
    extra = "answers['personality ADDR_NO_RANDOMIZE'] = call(135, 0x40000)\nanswers['not invented yet'] = call(1000)"
    code = f"answers = {{n: call(i, 0, 0, 0, 0, 0) for n, i in {calls!r}.items()}}\n{extra}\nprint(json.dumps(answers))"
    _refused(name, code, EPERM, ENOSYS)


@on_x86
@runtimes
def test_socket_families(name: str) -> None:
    code = """
f = {'vsock': (40, 1, 0), 'packet': (17, 3, 0), 'alg': (38, 5, 0), 'netlink audit': (16, 3, 9),
     'netlink netfilter': (16, 3, 12),
     'netlink uevent': (16, 3, 15), 'raw': (2, 3, 1), 'bluetooth': (31, 3, 1), 'can': (29, 3, 1), 'tipc': (30, 2, 0),
     'xdp': (44, 3, 0), 'key': (15, 3, 2), 'vsock with high bits': (40 | (1 << 32), 1, 0)}
print(json.dumps({n: call(41, *a) for n, a in f.items()}))"""
    _refused(name, code)


@runtimes
def test_device_nodes_cannot_be_made_or_reached(name: str) -> None:
    code = """
import stat
answers = {f'mknod {p}': attempt(lambda: os.mknod(p, 0o600 | k, os.makedev(*d))) for p, k, d in (
    ('/tmp/disk', stat.S_IFBLK, (254, 0)), ('/root/mem', stat.S_IFCHR, (1, 1)), ('/dev/kmsg', stat.S_IFCHR, (1, 11)))}
answers |= {f'open {p}': attempt(lambda: open(p, 'rb')) for p in ('/dev/vda', '/dev/sda', '/dev/mem', '/dev/kvm', '/dev/fuse')}
print(json.dumps(answers))"""
    _refused(name, code, EPERM, EACCES, ENOENT)


@runtimes
def test_no_descriptor_or_working_folder_leads_out(name: str) -> None:
    """CVE-2024-21626: a leaked descriptor as working folder."""

    async def body(bench: Bench) -> None:
        leak = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        os.set_inheritable(leak, True)
        try:
            # The listing itself holds one descriptor more.
            code = "fds = sorted(map(int, os.listdir('/proc/self/fd')))\n"
            code += "print(json.dumps([fds, os.getcwd(), os.path.exists('../../boot')]))"
            answers = await _ask(bench, code)
            assert answers == [[0, 1, 2, 3], "/", False]
            # Directories among the descriptors: none but the listing.
            code = "print(json.dumps([os.path.isdir(f'/proc/self/fd/{n}') for n in (0, 1, 2)]))"
            assert await _ask(bench, code) == [False] * 3
        finally:
            os.close(leak)

    with_bench(name, body)


@runtimes
def test_the_runtime_binary_cannot_be_overwritten(name: str) -> None:
    """CVE-2019-5736: /proc/self/exe of the process that enters the container."""

    async def body(bench: Bench) -> None:
        path = Path(subprocess.run(["which", name[4:]], capture_output=True, text=True, check=True).stdout.strip())
        before = path.read_bytes()
        code = "print(json.dumps([attempt(lambda: os.open(p, os.O_WRONLY)) for p in ('/proc/self/exe', '/proc/1/exe')]))"
        answers = await _ask(bench, code)
        assert isinstance(answers, list)
        assert all(one in (EACCES, EROFS, 26, EPERM) for one in answers)
        # A container whose program IS the runtime's own image.
        container_id = await bench.start(argv=["/proc/self/exe", "--version"])
        await bench.wait(container_id)
        assert path.read_bytes() == before

    with_bench(name, body)


@runtimes
def test_mount_targets_do_not_follow_links_of_the_image(name: str) -> None:
    async def body(bench: Bench) -> None:
        assert bench.image
        (bench.image.root / "trap").symlink_to("/etc")
        (bench.folder / "data").mkdir()
        for target in ("/trap/x", "/trap", "/../etc", "relative", "/"):
            with pytest.raises(InvalidError):
                await bench.start("", mounts=[Mount(bench.folder / "data", target)])
        assert not Path("/etc/x").exists()

    with_bench(name, body)


@runtimes
def test_a_container_writes_only_its_own_root(name: str) -> None:
    async def body(bench: Bench) -> None:
        assert bench.image
        before = sorted(str(path) for path in bench.image.root.rglob("*"))
        await bench.run("for p in ('/x', '/etc/x', '/root/x', '/tmp/x', '/opt/x', '/var/x', '/run/x'): open(p, 'w').write('1')")
        assert sorted(str(path) for path in bench.image.root.rglob("*")) == before
        assert await bench.run("import os; print(os.path.exists('/root/x'))") == "False"

    with_bench(name, body)
