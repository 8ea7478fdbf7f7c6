"""Reading INI files the one way all of ours are read: keys keep their case, ``%`` and ``:`` are
plain characters.
"""

from __future__ import annotations

import configparser
from pathlib import Path

from clusterjob.errors import SettingsError

Sections = dict[str, dict[str, str]]
# what [Resources] of a profile and [Directives] of a backend both speak of
COMMON_RESOURCES = (
    "jobname",
    "queue",
    "account",
    "time",
    "nodes",
    "ppn",
    "threads",
    "mem",
    "gpus",
    "stdout",
    "stderr",
    "array",
)


def read_ini(path: Path) -> Sections:
    """Read an INI file into ``{section: {key: value}}``.

    ``=`` alone separates key and value, ``#`` and ``;`` begin comments at the start of a line, and
    a value may go on in indented lines. Raises :class:`SettingsError` naming the file, and the line
    where there is one.
    """
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), default_section="\0none", empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    try:
        parser.read_string(path.read_text(encoding="utf-8-sig"), source=path.name)
    except FileNotFoundError:
        raise SettingsError(
            "no such file. Give the path of an INI file with [Attributes] and [Resources]",
            file=path,
        ) from None
    except IsADirectoryError:
        raise SettingsError("is a folder, expected an INI file", file=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot be read: {error}", file=path) from error
    except configparser.DuplicateSectionError as error:
        raise SettingsError(
            f"line {error.lineno}: the section stands twice; merge them",
            file=path,
            section=error.section,
        ) from None
    except configparser.DuplicateOptionError as error:
        raise SettingsError(
            f"line {error.lineno}: the key stands twice; keep one",
            file=path,
            section=error.section,
            key=error.option,
        ) from None
    except configparser.MissingSectionHeaderError as error:
        raise SettingsError(
            f"line {error.lineno}: {error.line.strip()!r} stands before any [Section]", file=path
        ) from None
    except configparser.ParsingError as error:
        lineno, line = error.errors[0]
        raise SettingsError(f"line {lineno}: {line} is not 'key = value'", file=path) from None
    return {name: dict(parser[name]) for name in parser.sections()}


def words(value: str) -> list[str]:
    """Split a comma-separated value; empty items are dropped."""
    return [item for item in (part.strip() for part in value.replace("\n", ",").split(",")) if item]


def boolean(value: str) -> bool | None:
    """Read ``true``/``false`` (also yes/no, on/off) as configparser does; None for any other word.

    ``1`` stays a number.
    """
    return {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
        value.strip().lower()
    )
