"""Reading a scheduler's own directives back into resources.

The templates of [Directives] that write an option also say how it is read: what they fill in is
what is looked for. [Native] of a backend adds how directives look, their short names, and options
that mean a common resource though clusterjob writes another.
"""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from clusterjob import units
from clusterjob.backend.model import Backend, Native, NativeStyle, NativeTime
from clusterjob.backend.resources import ResourceValue, parse_array
from clusterjob.backend.templates import quoter
from clusterjob.errors import SettingsError
from clusterjob.shell import lines_of

_COUNTS = ("nodes", "ppn", "threads", "gpus", "cores", "slots", "tasks")
_MEMORY = ("mem", "mem_per_core", "mem_total")
_TEXTS = ("jobname", "queue", "account", "stdout", "stderr", "array", "array_max")
_NAMES = (*_COUNTS, *_MEMORY, *_TEXTS, "time")
# patterns of values to which the letters belong that come behind them
_HAS_UNIT = tuple(f"(?P<{name}>" for name in (*_MEMORY, "time"))
# a template's tags: a value, a condition, its end
_TAG = re.compile(r"\{\{(.*?)\}\}|\{%(.*?)%\}")
# a word of a directive, with quotes in it
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:\\.|[^"\\])*"|'[^']*'|["'\\])+""")
_SEPARATOR = re.compile(r",(?![^(]*\))")
_BEGIN, _END = "(?:", ")?"
_VALUE = re.compile(r"\s*(\w+)(?:\s*\|\s*\w+)?(?:\s+or\s+\d+)?\s*")
_CLOCK = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(?:(\d+):)?(\d+)")


@dataclass(frozen=True)
class NativeOption:
    """One option of a script's directives, and the line that it stands in.

    ``value`` is what it means, ``raw`` how it was written, with its quotes.
    """

    name: str
    value: str | None
    line: int
    raw: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return self.name
        is_long = self.name.startswith("--")
        return f"{self.name}{'=' if is_long else ' '}{self.raw}"


@dataclass
class NativeResources:
    """What a script's directives ask for.

    ``resources`` are common ones, ``attributes`` what the backend's directives use besides,
    ``options`` have no common name.
    """

    resources: dict[str, ResourceValue] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)
    options: list[NativeOption] = field(default_factory=list)


def directive_lines(native: Native, script: str) -> list[tuple[int, str]]:
    """Return the directives of a script: the number of each line, and what stands behind the word
    that marks it.

    Schedulers read the comments at the head of a script, some the whole of it.
    """
    found = []
    for number, line in enumerate(lines_of(script), 1):
        if native.prefix is not None and (match := native.prefix.match(line)):
            found.append((number, line[match.end() :]))
        elif not native.whole and line.strip() and not line.lstrip().startswith("#"):
            break
    return found


def read_native(
    backend: Backend, script: str, convert: bool = False
) -> NativeResources:
    """Read the directives of a script that was written for a backend's scheduler.

    ``convert``: the script will go to another scheduler, so that options count which mean nearly
    the same as a common resource. Raises :class:`SettingsError` for directives that cannot be
    read, and for options that are given twice.
    """
    native = backend.native
    lines = directive_lines(native, script)
    options = [
        option for number, text in lines for option in _split(native, text, number)
    ]
    values, rest = _match(backend, options, convert)
    read = NativeResources()
    _convert(backend, values, read, rest)
    read.options = _join(native, rest)
    return read


# -- options ---------------------------------------------------------------------------------------


def _split(native: Native, text: str, line: int) -> Iterator[NativeOption]:
    """Yield the options of one directive; lists of resources are options of their own."""
    if native.style is NativeStyle.PAIRS:
        name, equals, value = text.partition("=")
        if equals:
            yield NativeOption(name.strip(), value.strip(), line, value.strip())
        return
    for given, raw in _pairs(native, _words(text, line), line):
        name = native.aliases.get(given, given)
        if name in native.given:
            continue
        if raw is None:
            yield NativeOption(name, None, line)
            continue
        items = _SEPARATOR.split(raw) if name in native.lists else [raw]
        for item in items:
            yield NativeOption(name, " ".join(_plain(item, line)), line, item)


def _words(text: str, line: int) -> list[str]:
    """Split a directive into words as the shell does, each with its quotes.

    Comments are left out.
    """
    found = []
    for match in _WORD.finditer(text):
        if match[0].startswith("#"):
            break
        found.append(match[0])
    _plain(" ".join(found), line)
    return found


def _plain(text: str, line: int) -> list[str]:
    """Take the quotes off words. Raises :class:`SettingsError`."""
    try:
        return shlex.split(text)
    except ValueError as error:
        raise SettingsError(f"line {line}: {text.strip()!r}: {error}") from None


def _pairs(
    native: Native, words: Sequence[str], line: int
) -> Iterator[tuple[str, str | None]]:
    """Yield options with their values, as they were written."""
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if not word.startswith("-") or word == "-":
            raise SettingsError(
                f"line {line}: {word!r} is no option of a directive; expected '-...'"
            )
        has_short = native.style is NativeStyle.GETOPT and not word.startswith("--")
        if word.startswith("--") and "=" in word:
            name, _, text = word.partition("=")
            yield name, text
        elif has_short and len(word) > 2:
            yield word[:2], word[2:]
        else:
            values = []
            while position < len(words) and not _is_option(words[position]):
                values.append(words[position])
                position += 1
            yield word, " ".join(values) if values else None


def _is_option(word: str) -> bool:
    return re.match(r"-{1,2}[A-Za-z]", word) is not None


def _join(native: Native, options: Sequence[NativeOption]) -> list[NativeOption]:
    """Make one option of those with one name: a list, or all of them in their order."""
    found: dict[str, NativeOption] = {}
    for option in options:
        earlier = found.get(option.name)
        if earlier is None:
            found[option.name] = option
            continue
        joint = f",{option.raw}" if option.name in native.lists else f" {option}"
        raw = f"{earlier.raw}{joint}"
        found[option.name] = NativeOption(option.name, raw, earlier.line, raw)
    return list(found.values())


# -- what options say ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """A part of a directive's template, as a pattern for what it writes.

    ``template`` numbers the template, ``needs`` the options of it that belong together.
    """

    name: str
    pattern: re.Pattern[str]
    template: int
    needs: frozenset[str]


def _match(
    backend: Backend, options: Sequence[NativeOption], convert: bool
) -> tuple[dict[str, tuple[str, NativeOption]], list[NativeOption]]:
    """Return the values that options say, each with its option, and the options that say none.

    Where an option's value has parts (PBS's chunks), all of them must be understood; where a
    directive writes several options, all of them must be there.
    """
    readers = _readers(backend, convert)
    said: list[tuple[NativeOption, int, dict[str, str]]] = []
    needs: dict[int, frozenset[str]] = {}
    rest = []
    for option in options:
        found = _read(readers, backend.native, option)
        if found is None:
            rest.append(option)
            continue
        reader, groups = found
        said.append((option, reader.template, groups))
        needs[reader.template] = reader.needs
    values: dict[str, tuple[str, NativeOption]] = {}
    for option, template, groups in said:
        there = {other.name for other, number, _ in said if number == template}
        if not needs[template] <= there:
            rest.append(option)
            continue
        for name, value in groups.items():
            before, source = values.setdefault(name, (value, option))
            if before != value:
                raise SettingsError(
                    f"lines {source.line} and {option.line}: {name!r} is given twice, as "
                    f"{before!r} and as {value!r}; keep one"
                )
    return values, sorted(rest, key=options.index)


def _read(
    readers: Sequence[_Reader], native: Native, option: NativeOption
) -> tuple[_Reader, dict[str, str]] | None:
    """Return what an option says, and a reader of it; None where a part of it is not understood."""
    said: dict[str, str] = {}
    used: _Reader | None = None
    for part in _parts(native, option.value or ""):
        for reader in readers:
            match = (
                reader.pattern.fullmatch(part) if reader.name == option.name else None
            )
            if match is not None:
                said |= {key: text for key, text in match.groupdict().items() if text}
                used = used or reader
                break
        else:
            return None
    return None if used is None else (used, said)


def _parts(native: Native, value: str) -> list[str]:
    """Split a value into the parts that say something each: ``select=2:ncpus=4``."""
    if any(value.startswith(f"{word}=") for word in native.chunks):
        return value.split(":")
    return [value]


@functools.lru_cache(maxsize=64)
def _readers(backend: Backend, convert: bool) -> list[_Reader]:
    """Return the readers of a backend, those of its own directives first."""
    native = backend.native
    templates = [item.template for item in backend.directives]
    templates += native.also
    if convert:
        templates += native.nearly
    found: list[_Reader] = []
    for number, template in enumerate(templates):
        if "{% for" not in template and "after" not in template:
            found += _invert(native, template, number)
    return found


def _invert(native: Native, template: str, number: int) -> list[_Reader]:
    """Return readers for the options that a template writes."""
    text, tags = _take_tags(template.replace('"', ""))
    found: list[tuple[str, str]] = []
    needs = set()
    for option in re.split(r"\s+(?=(?:\0\d+\0)?-{1,2}[A-Za-z])", text.strip()):
        bare = re.sub(r"^(?:\0\d+\0)+(?=-)", "", option)
        name, value = _name_and_value(native, bare)
        if bare == option:  # else it depends on a condition
            needs.add(name)
        found += [(name, part) for part in _parts(native, value)]
    readers = []
    for name, part in found:
        pattern = re.compile(_fill(part, tags))
        readers.append(_Reader(name, pattern, number, frozenset(needs)))
    return readers


def _name_and_value(native: Native, option: str) -> tuple[str, str]:
    if native.style is not NativeStyle.PAIRS and not option.startswith("--"):
        name, _, value = option.partition(" ")
    else:
        name, _, value = option.replace("=", " ", 1).partition(" ")
    return name.strip(), value.strip()


def _take_tags(template: str) -> tuple[str, list[str]]:
    """Return a template with numbers in place of its tags, and the pattern of each tag."""
    tags: list[str] = []

    def keep(match: re.Match[str]) -> str:
        tags.append(_pattern_of(match))
        return f"\0{len(tags) - 1}\0"

    def take_unit(match: re.Match[str]) -> str:
        number = int(match[1])
        if not tags[number].startswith(_HAS_UNIT):
            return match[0]
        tags[number] = tags[number].removesuffix(")") + f"{match[2]})"
        return f"\0{number}\0"

    text = _TAG.sub(keep, template)
    text = re.sub(r"\0(\d+)\0(MB?|mb|s)\b", take_unit, text)
    # a condition that begins before an option's space is the option's
    begins = [str(place) for place, tag in enumerate(tags) if tag == _BEGIN]
    pattern = rf"(\0(?:{'|'.join(begins)})\0)(\s+)(?=-)"
    return re.sub(pattern, r"\2\1", text), tags


def _fill(text: str, tags: Sequence[str]) -> str:
    """Put patterns for tags; a condition that only begins or ends in this text is left out."""
    pieces: list[str] = []
    begun: list[int] = []
    for position, piece in enumerate(re.split(r"\0(\d+)\0", text)):
        part = tags[int(piece)] if position % 2 else re.escape(piece)
        if part == _BEGIN:
            begun.append(len(pieces))
        elif part == _END:
            part = part if begun else ""
            del begun[-1:]
        pieces.append(part)
    for position in begun:
        pieces[position] = ""
    return "".join(pieces)


def _pattern_of(tag: re.Match[str]) -> str:
    """Return the pattern of what a tag of a template writes."""
    if tag[1] is None:
        return _END if tag[2].strip() == "endif" else _BEGIN
    value = _VALUE.fullmatch(tag[1])
    if value is None:
        return ".*"
    kind = r"\d+" if value[1] in _COUNTS else ".+?"
    return f"(?P<{value[1]}>{kind})"


# -- values ----------------------------------------------------------------------------------------


def _convert(
    backend: Backend,
    values: Mapping[str, tuple[str, NativeOption]],
    read: NativeResources,
    rest: list[NativeOption],
) -> None:
    """Make resources of the values; an option whose value is none of ours stays an option."""
    native = backend.native
    known: dict[str, ResourceValue] = {}
    sources: dict[str, NativeOption] = {}
    kept: set[NativeOption] = set()
    for name, (text, option) in values.items():
        sources[name] = option
        value = _value(native, name, text)
        if value is None or not _can_be_written(backend, value):
            kept.add(option)
        elif name not in _NAMES:  # of the site's: a parallel environment
            read.attributes[name] = text
        else:
            known[name] = value
    for name in list(known):
        if sources[name] in kept:
            del known[name]
    for name in _solve(native, known):
        kept.add(sources[name])
    read.resources = known
    for option in dict.fromkeys(sources.values()):
        if option in kept:
            rest.append(option)


def _can_be_written(backend: Backend, value: ResourceValue) -> bool:
    """Whether a word can stand in a directive of ours; else its option stays as it is."""
    if not isinstance(value, str):
        return True
    try:
        quoter(backend.general.quoting)(value)
    except SettingsError:
        return False
    return True


def _value(native: Native, name: str, text: str) -> ResourceValue | None:
    """Return a value in the form it has inside; None for one that has no such form."""
    if name in _COUNTS:
        return int(text) or None
    if name == "time":
        return _seconds(native.time, text)
    if name in _MEMORY:
        amount = units.megabytes_of(text, native.memory)
        return None if not amount else -int(-amount // 1)
    if name == "array":
        text = re.sub(r"\s+", ",", text)  # indices one by one
        try:
            parse_array(text)
        except SettingsError:
            return None
    return text


def _seconds(form: NativeTime, text: str) -> int | None:
    """Read a time limit as the scheduler does."""
    if form is NativeTime.UNITS:
        return _seconds_with_unit(text)
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if form is NativeTime.MINUTES:
        has_any = any(numbers) or bool(days)
        return units.parse_time(text) if has_any else None
    if form is NativeTime.HOURS_MINUTES:
        numbers.append(0)
    total = int(days or 0) * 86400
    for power, number in enumerate(reversed(numbers)):
        total += number * 60**power
    return total or None


def _seconds_with_unit(text: str) -> int | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h|d)?", text)
    if match is None:
        return None
    sizes = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    size = sizes[match[2] or "m"]
    return int(float(match[1]) * size) or None


@dataclass
class _Counts:
    """How many of what, as far as that is known; ``odd`` are those that do not fit the others."""

    nodes: int | None
    ppn: int | None
    threads: int | None
    slots: int | None
    cores: int | None
    tasks: int | None
    odd: set[str] = field(default_factory=set)

    @property
    def all_nodes(self) -> int:
        return self.nodes or 1

    @property
    def all_cores(self) -> int:
        processes = self.ppn or 1
        return self.cores or processes * (self.threads or 1)

    def use_slots(self) -> None:
        """Slots are cores of all nodes."""
        if self.slots is None:
            return
        if self.cores is None:
            self.cores = -(-self.slots // self.all_nodes)
        if self.slots % self.cores:
            self.odd |= {"slots", "cores"}
        elif self.nodes is None:
            self.nodes = self.slots // self.cores

    def use_tasks(self) -> None:
        """Tasks are processes of all nodes."""
        if self.tasks is None:
            return
        if self.ppn is None:
            self.ppn = -(-self.tasks // self.all_nodes)
        elif self.nodes is None:
            self.nodes = -(-self.tasks // self.ppn)
        elif self.nodes * self.ppn != self.tasks:
            self.odd.add("tasks")

    def use_cores(self, spare: str) -> None:
        """Cores of a node are its processes, or those of one process."""
        if self.cores is None:
            return
        if self.threads is None and self.ppn is None:
            if spare == "threads":
                self.ppn = 1
            else:
                self.threads = 1
        if self.ppn is None:
            self.ppn = self.cores // (self.threads or 1)
        if self.threads is None:
            self.threads = self.cores // self.ppn
        if self.ppn * self.threads != self.cores:
            self.odd.add("cores")


def _solve(native: Native, known: dict[str, ResourceValue]) -> set[str]:
    """Make nodes, processes, threads and memory of what a scheduler counts in its own way.

    Returns the names of values that do not fit together.
    """

    def take(name: str) -> int | None:
        value = known.pop(name, None)
        return value if isinstance(value, int) else None

    most = known.pop("array_max", None)
    if most is not None and "array" in known:
        known["array"] = f"{known['array']}%{most}"
    given = {name: take(name) for name in ("nodes", "ppn", "threads")}
    counts = _Counts(
        nodes=given["nodes"],
        ppn=given["ppn"],
        threads=given["threads"],
        slots=take("slots"),
        cores=take("cores"),
        tasks=take("tasks"),
    )
    counts.use_slots()
    counts.use_tasks()
    counts.use_cores(native.spare)
    _solve_memory(known, counts.all_nodes, counts.all_cores)
    for name, before in given.items():
        value = before if counts.odd else getattr(counts, name)
        if value:
            known[name] = value
    return counts.odd


def _solve_memory(known: dict[str, ResourceValue], nodes: int, cores: int) -> None:
    total, each = known.pop("mem_total", None), known.pop("mem_per_core", None)
    if isinstance(total, int):
        known["mem"] = -(-total // nodes)
    if isinstance(each, int):
        known["mem"] = each * cores
