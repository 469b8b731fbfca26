"""The kernel's locks, each put on the calling process alone and for good.

Everything here goes through ``ctypes``; on a system that lacks a lock its function says so and changes nothing.
The locks are Landlock (files, TCP, signals, abstract sockets), a network namespace, a seccomp filter (no sockets,
no tracing, no System V queues) and the surrender of all capabilities.
"""

from __future__ import annotations

import ctypes
import os
import platform
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
MAKE_CHAR, MAKE_SOCK, MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
READING = EXECUTE | READ_FILE | READ_DIR
BIND_TCP, CONNECT_TCP = 1 << 0, 1 << 1
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1 << 0, 1 << 1
FULL_ABI = 6

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000

# Audit constant of the machine, then the numbers of the refused calls; "socket" is refused only without network.
REFUSED: dict[str, tuple[int, dict[str, int]]] = {
    "x86_64": (
        0xC000003E,
        {
            "socket": 41, "shmget": 29, "semget": 64, "msgget": 68, "ptrace": 101, "pivot_root": 155, "mount": 165,
            "umount2": 166, "mq_open": 240, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272,
            "perf_event_open": 298, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
            "process_vm_writev": 311, "kcmp": 312, "bpf": 321, "userfaultfd": 323, "io_uring_setup": 425,
            "pidfd_getfd": 438,
        },
    ),
    "aarch64": (
        0xC00000B7,
        {
            "socket": 198, "shmget": 194, "semget": 190, "msgget": 186, "ptrace": 117, "pivot_root": 41, "mount": 40,
            "umount2": 39, "mq_open": 180, "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97,
            "perf_event_open": 241, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
            "process_vm_writev": 271, "kcmp": 272, "bpf": 280, "userfaultfd": 282, "io_uring_setup": 425,
            "pidfd_getfd": 438,
        },
    ),
}  # fmt: skip


def libc() -> ctypes.CDLL:
    """The C library, with ``errno`` kept per call."""
    return ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> bool:
    """Set one process attribute; False where the system has no such thing."""
    if not sys.platform.startswith("linux"):
        return False
    rest = (ctypes.c_ulong(number) for number in (value, 0, 0, 0))
    return bool(libc().prctl(ctypes.c_int(option), *rest) == 0)


def landlock_abi() -> int:
    """The version of Landlock this kernel offers, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(libc().syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _handled(abi: int) -> int:
    """Every file right that this version of Landlock knows."""
    count = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)
    return (1 << count) - 1


def landlock(abi: int, read: Iterable[Path], write: Iterable[Path], listing: Iterable[Path], network: bool) -> None:
    """Allow reading below ``read``, everything but device files and sockets below ``write``, nothing else.

    Args:
        abi: what ``landlock_abi`` said; rights that it does not know are left out.
        read: files and folders; those that do not exist are skipped. A character device may also be written.
        write: files and folders; each must exist.
        listing: folders whose names, at any depth, may be listed although their files may not be read.
        network: whether TCP stays allowed.

    Raises:
        OSError: a folder to write to is missing or the kernel refused.
    """
    handled = _handled(abi)
    fields = [handled, *([0 if network else BIND_TCP | CONNECT_TCP] if abi >= 4 else [])]
    if abi >= 6:
        fields.append(SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS)
    attribute = (ctypes.c_uint64 * len(fields))(*fields)
    size = ctypes.c_size_t(ctypes.sizeof(attribute))
    rules = _checked(CREATE_RULESET, ctypes.byref(attribute), size, ctypes.c_uint32(0))
    try:
        for path in read:
            if path.exists():
                device = (WRITE_FILE | IOCTL_DEV) if path.is_char_device() else 0
                _allow(rules, path, (READING | device) & handled)
        for path in listing:
            if path.is_dir():
                _allow(rules, path, READ_DIR)
        for path in write:
            _allow(rules, path, handled & ~(MAKE_CHAR | MAKE_SOCK | MAKE_BLOCK | IOCTL_DEV))
        _checked(RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0))
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= ON_FILES
        rule = _PathBeneath(rights, handle)
        _checked(ADD_RULE, ctypes.c_int(rules), ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
    finally:
        os.close(handle)


def _checked(number: int, *arguments: object) -> int:
    result = int(libc().syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def leave_network() -> bool:
    """Move into a network namespace of its own, which has no way out; False where that is not allowed."""
    if not sys.platform.startswith("linux"):
        return False
    if libc().unshare(ctypes.c_int(CLONE_NEWNET)) == 0:
        return True
    user, group = os.geteuid(), os.getegid()
    if libc().unshare(ctypes.c_int(CLONE_NEWUSER | CLONE_NEWNET)) != 0:
        return False
    # Without a mapping every file would seem to belong to "nobody", and libraries that ask who runs them fail.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        try:
            Path("/proc/self", name).write_text(text)
        except OSError:
            continue
    return True


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def refuse_calls(network: bool) -> bool:
    """Refuse the system calls of ``REFUSED`` with EACCES; False where this machine's numbers are not known."""
    if not sys.platform.startswith("linux") or platform.machine() not in REFUSED or sys.maxsize < 2**32:
        return False
    audit, calls = REFUSED[platform.machine()]
    numbers = [number for name, number in calls.items() if not (network and name == "socket")]
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    steps: list[tuple[int, int, int, int]] = [(load, 0, 0, 4), (equal, 0, len(numbers) + 3, audit), (load, 0, 0, 0)]
    # Numbers from 2**30 are the same calls under another name (x32); none of the libraries uses them.
    steps.append((at_least, len(numbers) + 1, 0, 0x40000000))
    for place, number in enumerate(numbers):
        steps.append((equal, len(numbers) - place, 0, number))
    steps += [(answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050000 | 13)]
    filters = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    program = _Program(len(steps), filters)
    arguments = (ctypes.c_ulong(2), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0))
    return bool(libc().prctl(ctypes.c_int(PR_SET_SECCOMP), *arguments) == 0)


def drop_capabilities() -> bool:
    """Give up every capability, which matters for root and inside a user namespace."""
    if not sys.platform.startswith("linux"):
        return False
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    return bool(libc().capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())) == 0)
