"""Lines of words, as text formats of meshes have them."""

from collections.abc import Iterator

from sctd.formats.common import FormatError

MAX_LINES = 10_000_000
MAX_LINE_BYTES = 2**20
_BREAKS = (b"\n", b"\r", b"\v", b"\f", b"\x1c", b"\x1d", b"\x1e", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")


def text_lines(data: bytes, what: str) -> Iterator[tuple[int, list[str]]]:
    """Number and words of every line that has any, without comments (#); a backslash continues a line.

    Raises FormatError, naming the file as `what`, for other content than text and for too many lines.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:4096]:
        raise FormatError(f"The {what} is not text in UTF-8; export it again.")
    begin, number, continued = 0, 0, ""
    while begin < len(data):
        end = data.find(b"\n", begin)
        end = len(data) if end < 0 else end
        number += 1
        if number > MAX_LINES:
            raise FormatError(f"The {what} has more than {MAX_LINES:,} lines. Simplify the mesh, then export it again.")
        if end - begin + len(continued) > MAX_LINE_BYTES:
            raise FormatError(f"Line {number:,} of the {what} has more than {MAX_LINE_BYTES:,} bytes. Export it again.")
        line = continued + data[begin:end].decode("utf-8", "replace").rstrip("\r")
        begin = end + 1
        if line.endswith("\\"):
            continued = line[:-1] + " "
            continue
        continued = ""
        words = line.partition("#")[0].split()
        if words:
            yield number, words


def check_text(data: bytes, what: str, most_lines: int = 4_000_000, most_bytes: int = 2**27) -> None:
    """Raise FormatError for a text that is too long for a parser which takes far more memory than it has bytes."""
    if len(data) > most_bytes or sum(map(data.count, _BREAKS)) > most_lines:
        size = f"{most_lines:,} lines or {most_bytes // 2**20} MiB"
        raise FormatError(f"The {what} is text of more than {size}. Save it in binary form.")
