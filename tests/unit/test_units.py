"""Times and memory: parsed once, written in each scheduler's form."""

from __future__ import annotations

import pytest

from clusterjob import units
from clusterjob.errors import SettingsError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 5400),
        ("90", 5400),
        ("5m", 300),
        ("01:30:00", 5400),
        ("2-12:00:00", 216000),
        ("10:30", 630),
        ("1-6", 108000),
        ("1-6:30", 109800),
        ("90s", 90),
        ("1h30m", 5400),
        ("2d", 172800),
        ("1.5h", 5400),
        (0.5, 30),
        ("100:00:00", 360000),
        ("2 hours", 7200),
        (" 5m ", 300),
    ],
)
def test_times(value: object, seconds: int) -> None:
    assert units.parse_time(value) == seconds  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "5x",
        "1:2:3:4",
        "-5",
        0,
        -1,
        True,
        "1-",
        ":30",
        "nan",
        float("inf"),
        "5m;rm",
    ],
)
def test_times_that_are_none(value: object) -> None:
    with pytest.raises(SettingsError, match="is not a time limit"):
        units.parse_time(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "megabytes"),
    [
        (100, 100),
        ("100", 100),
        ("4G", 4096),
        ("500 MB", 500),
        ("1.5T", 1572864),
        ("2048K", 2),
        ("1GiB", 1024),
        ("4g", 4096),
        ("1K", 1),
    ],
)
def test_memory(value: object, megabytes: int) -> None:
    assert units.parse_memory(value) == megabytes  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["", "lots", "4X", 0, -1, True, "4 G B", "-4G"])
def test_memory_that_is_none(value: object) -> None:
    with pytest.raises(SettingsError, match="is not an amount of memory"):
        units.parse_memory(value)  # type: ignore[arg-type]


def test_limits_are_written_and_never_made_shorter() -> None:
    assert units.clock(216000) == "60:00:00"
    assert units.day_clock(216000) == "2-12:00:00"
    assert units.day_clock(5400) == "01:30:00"
    assert units.minutes(61) == 2
    assert units.hour_minutes(5401) == "01:31"


def test_what_schedulers_print_is_read() -> None:
    assert units.seconds_of("00:00.127") == pytest.approx(0.127)
    assert units.seconds_of("1-02:03:04") == 93784
    assert units.seconds_of("0.025s") == 0.025
    assert units.seconds_of("nonsense") is None
    assert units.megabytes_of("3104K") == pytest.approx(3.03, abs=0.01)
    assert units.megabytes_of("0kb") == 0
    assert units.megabytes_of("4.777M") == 4.777
    assert units.megabytes_of("") is None
