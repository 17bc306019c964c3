"""Atomic writing: a file is complete, or it is not changed at all."""

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Open a temporary file beside ``path``, and rename it to ``path`` when the block ends without error.

    Parameters
    ----------
    path : str or PathLike
        The destination; replaced where it exists. Its folder must exist.

    Raises
    ------
    OSError
        If the folder is missing or not writable, or the disk is full. ``path`` is then as it was before, and
        the temporary file is gone.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from nplstm.io import atomic_write
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder) / "notes.txt"
    ...     with atomic_write(target) as file:
    ...         _ = file.write(b"all of it")
    ...     target.read_bytes()
    b'all of it'
    """
    # imported here, because they load much that `import nplstm` does not need
    import tempfile
    from pathlib import Path

    target = Path(os.path.realpath(path))  # a link stays, and its target is replaced
    if target.exists() and not target.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file", os.fspath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(_mode(target))
        temporary.replace(target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror, str(target)) from error  # a full disk names no file
        raise


def _mode(target: "Path") -> int:
    """Return the permissions of the file that is replaced; for a new one, what open() would give it."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
