"""What the kernel's scheduler is told of processes (sched(7)): nice values, and the length of time slices."""

from __future__ import annotations

import ctypes
import os
import struct

#: sched_setattr(2), which has no function in Python, nor in glibc before 2.41, by machine (asm/unistd.h).
_SCHED_SETATTR = {
    "x86_64": 314, "aarch64": 274, "riscv64": 274, "loongarch64": 274, "armv7l": 380, "i686": 351, "ppc64le": 355,
    "s390x": 345,
}  # fmt: skip
#: SCHED_FLAG_RESET_ON_FORK: what the thread starts has the usual nice value and time slices.
_NOT_INHERITED = 1
#: struct sched_attr: size, policy, flags, nice, priority, runtime, deadline, period.
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
#: Seconds: less than the default for any number of processors, more than most requests take.
SHORT_SLICE = 0.0001
_libc = ctypes.CDLL(None, use_errno=True)


def set_nice(value: int) -> bool:
    """Set the nice value of the calling thread (Linux: of no other), which what it starts inherits.

    Return False without the right to it: CAP_SYS_NICE of the first user namespace (capabilities(7)).
    """
    try:
        os.setpriority(os.PRIO_PROCESS, 0, value)
    except PermissionError:
        return False
    return True


def set_slice(pid: int, seconds: float, *, inherited: bool = True) -> None:
    """Have the first thread of ``pid`` (0: the calling one) ask for time slices of ``seconds``, from 0.0001 to 0.1.

    When that thread wakes, it takes the processor at once from one with longer slices, and gets no more time than
    before (EEVDF; PREEMPT_SHORT, since Linux 6.12; kernels before that take no notice). What it starts inherits them,
    unless ``inherited`` is false: then neither them nor a nice value below 0. Its nice value stays, and so does another
    policy than SCHED_OTHER, with its slices. Raises OSError: ESRCH; EPERM for another user's without CAP_SYS_NICE, or
    in a sandbox; ENOSYS for a machine of which the number of the system call is not known.
    """
    # Not by sched_setscheduler(2), for which RestrictRealtime= of systemd refuses any flag beside the policy.
    if os.sched_getscheduler(pid) != os.SCHED_OTHER:
        return
    nice, flags = os.getpriority(os.PRIO_PROCESS, pid), 0 if inherited else _NOT_INHERITED
    attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, flags, nice, 0, round(seconds * 1e9), 0, 0)
    call = _SCHED_SETATTR.get(os.uname().machine, -1)  # the kernel has no -1: ENOSYS
    if _libc.syscall(call, pid, attributes, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
