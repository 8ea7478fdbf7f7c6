"""Where backends are: beside the profile, the user's, the site's, the installed ones."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from clusterjob.backend.ini import read_ini
from clusterjob.errors import BackendNotFoundError, SettingsError, suggest
from clusterjob.plain_files import expand


def installed_backends() -> Path:
    """Return the folder of the backends that came with the package.

    In a source tree it stands beside the package.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "backends", package.parent / "backends"):
        if (folder / "slurm" / "backend.ini").is_file():
            return folder
    raise SettingsError(
        "the backends that belong to clusterjob are missing; install it again",
        file=package / "backends",
    )


def backend_folders(beside: Iterable[Path] = ()) -> list[Path]:
    """Return the lookup path; ``beside`` are the folders that are searched first."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [
        *beside,
        config / "clusterjob" / "backends",
        Path("/etc/clusterjob/backends"),
        installed_backends(),
    ]


def list_backends(beside: Iterable[Path] = ()) -> dict[str, Path]:
    """Return the folder of each backend on the lookup path, by name."""
    found: dict[str, Path] = {}
    for folder in backend_folders(beside):
        for path in _folders_in(folder):
            if _is_backend(path):
                found.setdefault(path.name, path)
    return dict(sorted(found.items()))


def find_backend(name: str, beside: Iterable[Path] = ()) -> Path:
    """Return the folder of a backend: a path to one, or a name on the lookup path.

    Raises :class:`BackendNotFoundError`.
    """
    if "/" in name:
        path = expand(name)
        if _is_backend(path):
            return path.resolve()
        raise BackendNotFoundError(
            f"there is no backend in the folder {name!r}: it has no backend.ini"
        )
    beside = list(beside)
    folders = backend_folders(beside)
    for folder in folders:
        if name and _is_backend(folder / name):
            return folder / name
    hint = suggest(name, list_backends(beside))
    if name == "pbs":
        hint = " Say 'torque' for Torque, or 'pbspro' for PBS Pro and OpenPBS."
    looked = ", ".join(str(folder) for folder in folders)
    raise BackendNotFoundError(
        f"there is no backend {name!r}.{hint} Looked in: {looked}"
    )


@functools.cache
def job_variable_patterns() -> tuple[str, ...]:
    """Return the patterns, ``SLURM_*`` and the like, of variables that schedulers set in a job.

    Those of all installed backends, and with ``!`` before them the ones that are kept.
    """
    found: dict[str, None] = {}
    for path in sorted(installed_backends().glob("*/backend.ini")):
        general = read_ini(path).get("Backend", {})
        for word in general.get("job_variables", "").split():
            if word.endswith("*") or word.startswith("!"):
                found[word] = None
    return tuple(found)


def _is_backend(folder: Path) -> bool:
    try:
        return (folder / "backend.ini").is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> SettingsError:
    return SettingsError(
        f"whether there are backends of yours in {folder} cannot be seen ({error.strerror}): mend "
        "the permissions, or name another folder of settings in $XDG_CONFIG_HOME"
    )
