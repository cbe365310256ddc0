"""Keeps the process alive when the file behind a mapped segment is truncated or its disk fails.

The kernel then ends the process with SIGBUS at the next access. Plain writes would raise an error
instead, but cost 7.3 us a touch on ext4 against 1.0 us. So the signal is handled: the pages of the
segment are replaced by memory without a file, and the segment is reported as lost. Nothing else of
the signal changes: if it concerns another address, the handler that was there before gets it.

On other systems than Linux nothing is done, because the layout of the handler's argument differs.
"""

import ctypes
import mmap
import signal
import sys
from typing import Any, Final

_SIGACTION_MASK_BYTES: Final = 128
_SA_SIGINFO: Final = 4
_ADDRESS_OFFSET: Final = 16
"""Of `si_addr` in the `siginfo_t` of 64-bit Linux."""
_PROT_READ_WRITE: Final = mmap.PROT_READ | mmap.PROT_WRITE if sys.platform == "linux" else 0
_MAP_FIXED: Final = 0x10
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_HANDLER: Final = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Action(ctypes.Structure):
    """What `sigaction` takes and returns, with the GNU and the musl C library."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_byte * _SIGACTION_MASK_BYTES),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class MappedSegments:
    """The segments that are mapped now, and those that lost their file.

    There is one for the process, as there is one handler of the signal.
    """

    def __init__(self) -> None:
        self._mappings: dict[str, tuple[int, mmap.mmap]] = {}  # with its address, by path
        self._lost: set[str] = set()
        self._before = _Action()
        self._is_installed = False
        self._libc: Any = None
        self._callback = _HANDLER(self._handle)

    def add(self, path: str, memory: mmap.mmap) -> None:
        """Protect a mapping until `remove`; it is kept open as long.

        Args:
            path: of its file.
            memory: the mapping.
        """
        if sys.platform != "linux" or sys.maxsize < 1 << 32:
            return
        if not self._is_installed:
            self._install()
        self._mappings[path] = ctypes.addressof(ctypes.c_char.from_buffer(memory)), memory

    def remove(self, path: str) -> None:
        """Stop protecting a mapping, before it is closed: its addresses may be used again."""
        self._mappings.pop(path, None)

    def has_lost(self, path: str) -> bool:
        """Return whether a mapping has lost its file."""
        return path in self._lost

    def forget(self, prefix: str) -> None:
        """Stop protecting mappings, and forget whether they have lost their files.

        Args:
            prefix: of the paths of their files.
        """
        for path in [path for path in self._mappings if path.startswith(prefix)]:
            self.remove(path)
        self._lost = {path for path in self._lost if not path.startswith(prefix)}

    def _install(self) -> None:
        self._libc = libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        )
        handler = ctypes.cast(self._callback, ctypes.c_void_p)
        action = _Action(handler=handler, flags=_SA_SIGINFO)
        libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(self._before))
        self._is_installed = True

    def _handle(self, _number: int, information: int, _context: int) -> None:
        fault = ctypes.c_void_p.from_address(information + _ADDRESS_OFFSET).value or 0
        for path, (address, memory) in self._mappings.items():
            size = len(memory)
            if address <= fault < address + size:
                flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
                if self._libc.mmap(address, size, _PROT_READ_WRITE, flags, -1, 0) != _MAP_FAILED:
                    self._lost.add(path)
                    return
        # Not ours: the access is repeated and meets the handler that was there before.
        self._libc.sigaction(signal.SIGBUS, ctypes.byref(self._before), None)
        self._is_installed = False


mapped: Final = MappedSegments()
"""The segments of this process."""
