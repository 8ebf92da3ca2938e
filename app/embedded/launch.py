"""Becomes a server: drops privileges, asks the kernel for a signal when the parent dies, then execs.

Run by its path as `python -IS launch.py UID GID SIGNAL PARENT COMMAND...` (UID -1 keeps the user); standard library
only. A program of its own, since code between fork and exec of a threaded process may hang, and since changing the user
clears the death signal: it has to be asked for afterwards. That signal is sent when the *thread* that forked us ends,
not the process: see supervisor.py for who forks.
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: execs the command or exits with 125."""
    uid, gid, signal_number, parent = (int(value) for value in arguments[:4])
    command = arguments[4:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(125)
    os.umask(0o077)
    os.chdir("/")  # the new user may be unable to stay where we are
    os.execv(command[0], command)  # noqa: S606  an argument list of our own making, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
