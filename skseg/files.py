"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when the block ends without an error.

    A process that is killed inside the block leaves the old file, or none.

    Args:
        path: the file; its folder is made if missing.

    Yields:
        The path to write to, in the same folder.

    Raises:
        OSError: the file cannot be written or moved.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "report.txt"
        >>> with whole_file(target) as part:
        ...     _ = part.write_text("done", encoding="utf-8")
        >>> target.read_text(encoding="utf-8")
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
