"""
What an error in writing says of the disk.
"""

from __future__ import annotations

import errno
import os

__all__ = ["free_space"]

_FULL = (errno.ENOSPC, errno.EDQUOT)


def free_space(error: BaseException, path: str | os.PathLike[str]) -> str:
    """
    Where it is room that was lacking for the file C{path}: how much there is, to be put behind the error's text.
    """
    if not isinstance(error, OSError) or error.errno not in _FULL:
        return ""
    try:
        disk = os.statvfs(os.path.dirname(os.path.abspath(path)))
    except OSError:
        return ""
    return f" ({disk.f_bavail * disk.f_frsize / (1 << 20):.1f} MiB are free there)"
