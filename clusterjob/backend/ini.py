"""Reading INI files the one way all of ours are read: keys keep their case, ``%`` and ``:`` are
plain characters.
"""

from __future__ import annotations

import configparser
from pathlib import Path

from clusterjob.errors import SettingsError
from clusterjob.plain_files import read_text

Sections = dict[str, dict[str, str]]

_TRUTH_VALUES = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}


def read_ini(path: Path) -> Sections:
    """Read an INI file into ``{section: {key: value}}``.

    ``=`` alone separates key and value, ``#`` and ``;`` begin comments at the start of a line, and
    a value may go on in indented lines, with comments and empty lines between them.

    Raises :class:`SettingsError` naming the file, and the line where there is one.
    """
    parser = configparser.ConfigParser(
        interpolation=None,
        delimiters=("=",),
        default_section="\0none",
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    try:
        parser.read_string(_read_text(path), source=path.name)
    except configparser.Error as error:
        raise _syntax_error(path, error) from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _read_text(path: Path) -> str:
    try:
        return read_text(path, encoding="utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(
            "no such file. Give the path of an INI file with [Attributes] and [Resources]",
            file=path,
        ) from None
    except IsADirectoryError:
        raise SettingsError("is a folder, expected an INI file", file=path) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot be read: {error}", file=path) from error


def _syntax_error(path: Path, error: configparser.Error) -> SettingsError:
    """Say in our own words, and with the line, what configparser complained about."""
    if isinstance(error, configparser.DuplicateSectionError):
        return SettingsError(
            f"line {error.lineno}: the section stands twice; merge them",
            file=path,
            section=error.section,
        )
    if isinstance(error, configparser.DuplicateOptionError):
        return SettingsError(
            f"line {error.lineno}: the key stands twice; keep one",
            file=path,
            section=error.section,
            key=error.option,
        )
    if isinstance(error, configparser.MissingSectionHeaderError):
        line = error.line.strip()
        return SettingsError(
            f"line {error.lineno}: {line!r} stands before any [Section]", file=path
        )
    if isinstance(error, configparser.ParsingError) and error.errors:
        number, text = error.errors[0]
        hint = " (a colon does not separate them)" if ":" in text else ""
        return SettingsError(
            f"line {number}: {text} is not 'key = value'{hint}", file=path
        )
    return SettingsError(str(error), file=path)


def split_words(value: str) -> list[str]:
    """Split a comma-separated value; empty items are dropped."""
    items = (item.strip() for item in value.replace("\n", ",").split(","))
    return [item for item in items if item]


def parse_boolean(value: str) -> bool | None:
    """Read ``true``/``false`` (also yes/no, on/off) as configparser does.

    None for any other word; ``1`` stays a number.
    """
    return _TRUTH_VALUES.get(value.strip().lower())
