"""The lines of a text file, one in memory at a time. What is no UTF-8 text, or too long, is an error with its line."""

import codecs
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from graftlm.core.errors import UserError

LONGEST = 16 << 20  # bytes of a line: about eight million words
LARGEST = 1 << 30  # bytes of a file that is one JSON list, which is read whole


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Each line with its number, its line end kept and a byte-order mark left out."""
    with path.open("rb") as file:
        _refuse_utf16(file, path)
        number = 0
        while line := file.readline(LONGEST + 1):
            number += 1
            if len(line) > LONGEST:
                raise UserError(f"{path} line {number} is longer than {LONGEST >> 20} MiB, which no example is")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            yield number, _decoded(line, f"{path} line {number}")


def csv_lines(path: Path) -> Iterator[str]:
    """Lines that end as those of a text file do, in a lone carriage return too."""
    for _, line in lines(path):
        yield from io.StringIO(line, newline="")


def whole(path: Path) -> str:
    """A file's text at once."""
    with path.open("rb") as file:
        _refuse_utf16(file, path)
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path} is one list of more than {LARGEST >> 30} GiB; write one object a line, as .jsonl has")
    return _decoded(content.removeprefix(codecs.BOM_UTF8), str(path))


def is_list(path: Path) -> bool:
    """Whether a file's first character opens a JSON list."""
    with path.open("rb") as file:
        return file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["


def _refuse_utf16(file: BinaryIO, path: Path) -> None:
    if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise UserError(f"{path} is UTF-16; save it as UTF-8")
    file.seek(0)


def _decoded(content: bytes, at: str) -> str:
    if b"\0" in content:
        raise UserError(f"{at}: a NUL byte, which no text file holds")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{at}: not UTF-8") from None
