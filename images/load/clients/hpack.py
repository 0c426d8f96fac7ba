"""HPACK by libnghttp2, which h2load brings along: what a block of header fields says.

https://nghttp2.org/documentation/nghttp2_hd_inflate_hd2.html
"""

import ctypes
from collections.abc import Callable
from typing import TypeAlias

# Takes the blocks of one connection, in their order, and gives the fields of each.
Inflate: TypeAlias = Callable[[bytes], list[tuple[bytes, bytes]]]
_LIBRARY = "libnghttp2.so.14"
_FINAL, _EMIT = 1, 2


class _Field(ctypes.Structure):
    """nghttp2_nv."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("value", ctypes.c_void_p),
        ("name_size", ctypes.c_size_t),
        ("value_size", ctypes.c_size_t),
        ("flags", ctypes.c_uint8),
    )


class Inflater:
    """Inflates the blocks of one connection, each of which may refer to those before it."""

    def __init__(self) -> None:
        self._raw = ctypes.c_void_p()
        self._library = ctypes.CDLL(_LIBRARY)
        self._inflate = self._library.nghttp2_hd_inflate_hd2
        self._inflate.restype = ctypes.c_ssize_t
        if self._library.nghttp2_hd_inflate_new(ctypes.byref(self._raw)):
            raise MemoryError

    def __del__(self) -> None:
        # None was made where there is no such library.
        if self._raw:
            self._library.nghttp2_hd_inflate_del(self._raw)

    def __call__(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """The fields of a whole block.

        Raises:
            ValueError: it is no such block.
        """
        fields: list[tuple[bytes, bytes]] = []
        found, flags = _Field(), ctypes.c_int()
        while not flags.value & _FINAL:
            flags.value = 0
            size = ctypes.c_size_t(len(block))
            read = self._inflate(self._raw, ctypes.byref(found), ctypes.byref(flags), block, size, 1)
            if read < 0:
                raise ValueError(f"no header block: nghttp2 says {read}")
            block = block[read:]
            if flags.value & _EMIT:
                name = ctypes.string_at(found.name, found.name_size)
                fields.append((name, ctypes.string_at(found.value, found.value_size)))
        self._library.nghttp2_hd_inflate_end_headers(self._raw)
        return fields
