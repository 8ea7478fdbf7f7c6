"""Whom a store belongs to: what another user wrote is looked at, and never run.

A record names commands, folders and hosts, so whoever can write one can have them used by whoever
works with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from clusterjob.errors import StoreError


def foreign_owner(paths: Iterable[str | os.PathLike[str]]) -> str:
    """Return the other user that a file or folder belongs to; empty where all are one's own.

    Links are looked at, and what they lead to; a path that is not there belongs to nobody.
    """
    own = os.geteuid()
    for path in paths:
        for look in (os.lstat, os.stat):
            try:
                uid = look(path).st_uid
            except OSError:
                continue
            if uid != own:
                return user_name(uid)
    return ""


def check_not_public(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse a store that anybody may write to. Raises :class:`StoreError`."""
    for path in paths:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            raise StoreError(
                f"anybody may write to {os.fspath(path)}, so this store may say what anybody "
                "wants, and is not used. If nobody else wrote there, 'chmod o-w' makes it safe"
            )


def is_missing(path: str | os.PathLike[str]) -> bool:
    """Whether nothing has this path. Raises :class:`StoreError` where nothing could have it."""
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise unusable_error(path, error) from error
    return False


def unusable_error(path: str | os.PathLike[str], error: OSError) -> StoreError:
    """Return the error for a store that the system keeps from being there."""
    return StoreError(
        f"the store {os.fspath(path)} cannot be made or read: {error.strerror}. Name another "
        "folder with JobScript.cache_folder or $CLUSTERJOB_STORE"
    )


def user_name(uid: int) -> str:
    """Return a user's name, or the number where it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def foreign_error(url: str, owner: str) -> StoreError:
    """Return the error for who would do more than look at another user's store."""
    return StoreError(
        f"the store {url} belongs to {owner}: what is in it can be looked at (list, show), and "
        "nothing is asked, run or changed for it. Use a store of your own"
    )
