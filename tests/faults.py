# Copyright 2026 The forge_hf authors. Licensed under the Apache License, Version 2.0.
"""What can go wrong while files are written, at every place where it can, in children of this process."""

import errno
import os
import resource
import signal
import sys
import traceback
from itertools import count

from forge_hf.errors import StorageError


_CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
_NEEDS_ROOM = {"os.mkdir", "os.rename"}


def in_child(call):
    """Runs `call` in a child. Returns its exit status as `os.waitpid` gives it; 3 is a [`StorageError`]."""
    child = os.fork()
    if child == 0:
        try:
            call()
            os._exit(0)
        except StorageError as error:
            clear = isinstance(error, OSError) and error.errno and os.strerror(error.errno) in str(error)
            os._exit(3 if clear else 4)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _on_nth_change(n, needs_room, act):
    """Calls `act` before the n-th change of the file system: by Python itself, and each time data goes to the disk."""
    changes = [0]

    def step():
        changes[0] += 1
        if changes[0] == n:
            act()

    def watch(event, args):
        if event == "open":
            if isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
                step()
        elif event in (_NEEDS_ROOM if needs_room else _CHANGES):
            step()

    fsync = os.fsync

    def watched_fsync(file):
        step()
        fsync(file)

    sys.addaudithook(watch)  # for good, which is why this is a child
    os.fsync = watched_fsync


def kill_points(call):
    """Kills a child at its first, second, ... change, until it gets through. Yields after each kill."""
    for n in count(1):
        status = in_child(lambda n=n: (_on_nth_change(n, False, lambda: os.kill(os.getpid(), signal.SIGKILL)), call()))
        if status == 0:
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        yield n


def full_points(call):
    """The disk is full at the first, second, ... change of a child that needs room. Yields after each."""

    def try_at(n):
        refused = []

        def refuse():
            refused.append(n)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        _on_nth_change(n, True, refuse)
        call()
        os._exit(5 if refused else 0)  # 5: it did without that

    for n in count(1):
        status = os.waitstatus_to_exitcode(in_child(lambda n=n: try_at(n)))
        if status == 0:
            return
        assert status in (3, 5)
        yield n


def small_disk(call, size):
    """Whether `call`, in a child whose files can't grow beyond `size` bytes, says so clearly."""
    status = in_child(lambda: (resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)), call()))
    return os.waitstatus_to_exitcode(status) == 3
