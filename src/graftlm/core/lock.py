"""A folder held by one process: the lock goes when the process does, however it ends."""

import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

from graftlm.core.errors import UserError
from graftlm.core.files import writing

NAME = ".lock"


class Held(UserError):
    """A folder that another process holds."""


class Lock:
    """Holds a folder until it is closed; raises UserError where another process holds it.

    `sure`: whether the file system knows locks at all; a few network ones do not.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.sure = True
        while True:
            with writing(folder):
                self._handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
            self._take()
            if self._is_ours():  # the one who held it before may have removed the file
                break
            os.close(self._handle)
        with suppress(OSError):
            os.truncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def _take(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._handle, 200, 0).decode(errors="replace") or "another process"
            os.close(self._handle)
            raise Held(f"{self.folder} is being written by {holder}; wait for it, or name another folder") from None
        except OSError:
            self.sure = False

    def _is_ours(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._handle), os.stat(self.folder / NAME))  # noqa: PTH116
        except OSError:
            return False

    def check(self) -> None:
        """Raises UserError where the folder was removed or replaced since it was locked."""
        if not self._is_ours():
            raise UserError(
                f"{self.folder} was removed or replaced while the run was writing to it; train it anew in a new folder"
            )

    def close(self) -> None:
        """Gives the folder free."""
        if self._is_ours():
            with suppress(OSError):
                (self.folder / NAME).unlink()
        os.close(self._handle)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
