"""A real file system (FUSE, linux/fuse.h) with one file, `log`, that takes no writing until it may, or
can't even be found: as one of a server that is gone."""

import contextlib
import ctypes
import os
import struct
import threading

import pytest

_libc = ctypes.CDLL(None, use_errno=True)
MS_NOSUID, MS_NODEV, MNT_FORCE, MNT_DETACH = 2, 4, 1, 2

LOOKUP, FORGET, GETATTR, SETATTR, OPEN, WRITE, STATFS, RELEASE, FLUSH, INIT, OPENDIR, INTERRUPT = (
    1, 2, 3, 4, 14, 16, 17, 18, 25, 26, 27, 36)
BATCH_FORGET = 42
ROOT, LOG = 1, 2  # inode numbers
ENOENT, ENOSYS = 2, 38
DIRECT_IO = 1  # each write(2) is one request, and waits for its answer
HEADER = struct.Struct("=IIQQIIIHH")
LARGEST = 1 << 17


def attributes(inode, size):
    mode = 0o40777 if inode == ROOT else 0o100666
    return struct.pack("=QQQQQQ10I", inode, size, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


class HangingFiles:
    """Mounted while the block runs. `held` is set as soon as somebody waits: a writer, or whoever looks
    for the file."""

    def __init__(self, place, held=WRITE):
        self.place, self.log, self.held_kind = place, place / "log", held
        self.written, self.waiting = b"", []
        self.held, self.hangs = threading.Event(), True
        self.lock = threading.Lock()

    def __enter__(self):
        self.place.mkdir(mode=0o755, exist_ok=True)
        try:
            self.device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            pytest.skip(f"no FUSE here: {error}")
        options = f"fd={self.device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"lab", bytes(self.place), b"fuse", MS_NOSUID | MS_NODEV, options.encode()):
            os.close(self.device)
            pytest.skip(f"no FUSE here: {os.strerror(ctypes.get_errno())}")
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        # Whoever waits is told that the connection is aborted.
        _libc.umount2(bytes(self.place), MNT_FORCE)
        _libc.umount2(bytes(self.place), MNT_DETACH)
        self.thread.join(10)
        os.close(self.device)

    def text(self):
        with self.lock:
            return self.written.decode()

    def go_on(self):
        """What waits is written, and what comes."""
        with self.lock:
            self.hangs = False
            for request in self.waiting:
                self._serve_one(*request)
            self.waiting.clear()

    def _answer(self, unique, data=b"", error=0):
        # (Somebody who was killed waits no more.)
        with contextlib.suppress(FileNotFoundError):
            os.write(self.device, struct.pack("=IiQ", 16 + len(data), -error, unique) + data)

    def _serve(self):
        # (ENODEV: it is mounted no more.)
        with contextlib.suppress(OSError):
            while True:
                request = os.read(self.device, LARGEST + 8192)
                _, kind, unique, inode, *_ = HEADER.unpack_from(request)
                with self.lock:
                    if self.hangs and kind == self.held_kind:
                        self.waiting.append((kind, unique, inode, request[HEADER.size:]))
                        self.held.set()
                    else:
                        self._serve_one(kind, unique, inode, request[HEADER.size:])

    def _serve_one(self, kind, unique, inode, body):
        if kind in (FORGET, BATCH_FORGET, INTERRUPT):
            return
        if kind == WRITE:
            size = struct.unpack_from("=QQI", body)[2]
            self.written += body[40:40 + size]
            self._answer(unique, struct.pack("=II", size, 0))
            return
        size = len(self.written) if inode == LOG else 0
        answers = {
            INIT: struct.pack("=IIIIHHII", 7, 31, 0, 0, 12, 9, LARGEST, 1) + bytes(32),
            GETATTR: struct.pack("=QII", 0, 0, 0) + attributes(inode, size),
            SETATTR: struct.pack("=QII", 0, 0, 0) + attributes(inode, size),
            OPEN: struct.pack("=QII", 1, DIRECT_IO, 0), OPENDIR: struct.pack("=QII", 1, 0, 0),
            STATFS: bytes(80), RELEASE: b"", FLUSH: b"",
        }
        if kind == LOOKUP and body.rstrip(b"\0") == b"log":
            self._answer(unique, struct.pack("=QQQQII", LOG, 0, 0, 0, 0, 0)
                         + attributes(LOG, len(self.written)))
        elif kind == LOOKUP:
            self._answer(unique, error=ENOENT)
        else:
            self._answer(unique, answers.get(kind, b""), 0 if kind in answers else ENOSYS)
