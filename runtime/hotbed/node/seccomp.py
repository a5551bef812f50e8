"""The seccomp allow-list of `container` isolation, as the OCI runtime reads it. Pure.

Three answers: calls on `_ALLOWED` run; calls on `_REFUSED` fail with EPERM, so that the reader of an error knows that it was
meant; everything else, also calls invented after this list, fails with ENOSYS so that a C library falls back to what it knew
before. Only the native architecture is admitted: 32-bit and x32 entry points kill the caller.

Conditions compare all 64 bits of a register although the kernel reads 32 of some: a value with high bits set matches no rule.
"""

from __future__ import annotations

import errno
import platform
from typing import Any

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64", "riscv64": "SCMP_ARCH_RISCV64"}

_CLONE_NAMESPACES = 0x7E020000
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET. (NEWTIME is a flag of clone3 alone.)"""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_PERSONALITY_QUERY = 0xFFFFFFFF


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_ALLOWED = _words("""
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr
flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
get_mempolicy get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage
getsid getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill
landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr
llistxattr lremovexattr lseek lsetxattr lstat madvise mbind membarrier memfd_create mincore mkdir mkdirat mknod mknodat
mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2
prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg
recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall riscv_flush_icache riscv_hwprobe rmdir
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_robust_list
set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid
setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time
timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev
""")

_REFUSED = _words("""
acct add_key bpf chroot clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick
init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie memfd_secret mount mount_setattr
move_mount move_pages migrate_pages name_to_handle_at open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root
process_madvise process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key setdomainname
sethostname setns settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup
""")


def supported(machine: str = platform.machine()) -> bool:
    """Whether there is a filter for this architecture; without one a container is refused, never run unfiltered."""
    return machine in _ARCHITECTURES


def profile(machine: str = platform.machine()) -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI configuration.

    Raises:
        KeyError: No list for this architecture (ask `supported` first).
    """
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "architectures": [_ARCHITECTURES[machine]],
        "syscalls": [
            {"names": list(_ALLOWED), "action": "SCMP_ACT_ALLOW"},
            {"names": list(_REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
            # clone3 keeps its flags in memory, where a filter cannot look; ENOSYS makes glibc use clone().
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            _allow("clone", (0, _CLONE_NAMESPACES, "SCMP_CMP_MASKED_EQ", 0)),
            _allow("socket", (0, _AF_UNIX)),
            _allow("socket", (0, _AF_INET)),
            _allow("socket", (0, _AF_INET6)),
            # Route netlink answers getifaddrs() and is namespaced; audit, netfilter, kobject and the others stay out.
            _allow("socket", (0, _AF_NETLINK), (2, _NETLINK_ROUTE)),
            _allow("personality", (0, 0)),
            _allow("personality", (0, _PERSONALITY_QUERY)),
        ],
    }


def _allow(name: str, *conditions: tuple[int, int] | tuple[int, int, str, int]) -> dict[str, Any]:
    args: list[dict[str, Any]] = []
    for condition in conditions:
        if len(condition) == 2:
            args.append({"index": condition[0], "value": condition[1], "op": "SCMP_CMP_EQ"})
        else:
            index, mask, operator, wanted = condition
            args.append({"index": index, "value": mask, "valueTwo": wanted, "op": operator})
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": args}
