"""Resources become the scheduler's own options."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence

from clusterjob.backend.model import Backend
from clusterjob.backend.resources import (
    COMMON_RESOURCES,
    ResourceValue,
    derive_resources,
)
from clusterjob.backend.templates import (
    CONTROL_CHARACTERS,
    Quoted,
    compile_directive,
    quoter,
    render_template,
)
from clusterjob.errors import ResourcesNotSupportedError, SettingsError
from clusterjob.status import Dependency

_PLAIN = re.compile(r"([^{}]*)\{\{ (\w+) \}\}")  # a directive that needs no Jinja
_MOST_KNOWN = 10_000

Values = Mapping[str, object]
# ids of jobs that come before, by what they must have come to
Dependencies = Mapping[Dependency, Sequence[str]]


class DirectiveWriter:
    """Writes the directives of one backend; equal ones of many jobs are rendered once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._quote = functools.partial(
            _quote, quoter(backend.general.quoting), backend.general.array_task
        )
        self._expressed = {
            name for item in backend.directives for name in item.resources
        }
        self._lines = [
            (item.resources, item.template, _PLAIN.fullmatch(item.template))
            for item in backend.directives
            if item.template
        ]
        self._known: dict[tuple[object, ...], str] = {}

    def write(
        self,
        resources: Mapping[str, ResourceValue | None],
        after: Dependencies | None = None,
        attributes: Values | None = None,
    ) -> list[str]:
        """Return the options, one string each, in the order of the backend's file.

        Common resources go through [Directives]; all others are passed on as the scheduler's own
        options. Raises :class:`ResourcesNotSupportedError`, :class:`SettingsError`,
        :class:`RenderError`.
        """
        given: dict[str, object] = {
            name: value for name, value in resources.items() if value is not None
        }
        if after:
            given["after"] = after
        self._check_expressible(given)
        derived = derive_resources(given)
        lines = []
        for names, template, plain in self._lines:
            if given.keys().isdisjoint(names):
                continue
            value = given.get(plain[2]) if plain is not None else None
            if plain is not None and isinstance(value, str) and plain[2] != "array":
                lines.append(plain[1] + self._quote(value))
                continue
            wanted = {name: given.get(name) for name in names}
            lines.append(self._directive(template, wanted, derived, attributes or {}))
        shared = self._backend.general.shared
        for name, value in given.items():
            if name not in self._expressed and name.lstrip("-") not in shared:
                lines.append(self._own_option(name, value))
        return [line for line in lines if line.strip()]

    def _check_expressible(self, given: Values) -> None:
        for name, value in given.items():
            is_common = name in COMMON_RESOURCES or name in ("after", "exclude")
            if is_common and name not in self._expressed:
                raise ResourcesNotSupportedError(
                    f"backend {self._backend.name!r} has no directive for {name!r} ({value!r}). "
                    "Leave it out, or give the profile a line "
                    f"'{name} = ...' in [Directives] (empty to drop it)"
                )

    def _directive(
        self,
        template: str,
        wanted: Values,
        derived: Mapping[str, int | None],
        attributes: Values,
    ) -> str:
        """Render one directive; everything filled in is quoted for the place it stands in."""
        if "after" in wanted or "exclude" in wanted:
            return self._render(template, wanted, derived, attributes)
        key = (template, *wanted.values(), *derived.values(), *attributes.items())
        known = self._known.get(key)
        if known is None:
            known = self._render(template, wanted, derived, attributes)
            if len(self._known) < _MOST_KNOWN:
                self._known[key] = known
        return known

    def _render(
        self,
        template: str,
        wanted: Values,
        derived: Mapping[str, int | None],
        attributes: Values,
    ) -> str:
        context: dict[str, object] = {
            **dict.fromkeys(COMMON_RESOURCES),
            "array_max": None,
            **attributes,
            **derived,
        }
        for name, value in wanted.items():
            context[name] = (
                Quoted(value, self._quote) if isinstance(value, str) else value
            )
        after = wanted.get("after")
        if isinstance(after, Mapping):
            context["dependencies"] = [(str(how), ids) for how, ids in after.items()]
            context["after"] = [job_id for ids in after.values() for job_id in ids]
        array = wanted.get("array")
        if isinstance(array, str):
            context["array"], context["array_max"] = self._split_array(array)
        where = f"[Directives] {', '.join(wanted)} of backend {self._backend.name!r}"
        return render_template(compile_directive(template, where), context, where)

    def _split_array(self, array: str) -> tuple[str, str | None]:
        """Return the indices, and how many may run at once."""
        indices, _, most = array.partition("%")
        if most and not any(
            "array_max" in item.template for item in self._backend.directives
        ):
            raise ResourcesNotSupportedError(
                f"backend {self._backend.name!r} cannot bound how many elements of an array run "
                f"at once (%{most} in 'array'); leave that out"
            )
        if "," in indices and not self._backend.general.array_lists:
            raise ResourcesNotSupportedError(
                f"backend {self._backend.name!r} takes one range in 'array', "
                f"not the list {indices!r}"
            )
        return indices, most or None

    def shared(self, resources: Mapping[str, ResourceValue | None]) -> dict[str, str]:
        """Return the user's part of options that the template gives too.

        Raises :class:`SettingsError` for one that would not be found again.
        """
        found = dict.fromkeys(self._backend.general.shared, "")
        for name, value in resources.items():
            key = name.lstrip("-")
            if key in self._backend.general.shared and value is not None:
                text = str(value)
                _check_option(name, text)
                if "|" in text:
                    raise SettingsError(f"{name!r} = {text!r} must not have a '|'")
                found[key] = text
        return found

    def _check_reserved(self, name: str, text: str) -> None:
        general = self._backend.general
        for option, instead in general.reserved:
            if name.lstrip("-") == option:
                raise SettingsError(
                    f"the option {name!r} is clusterjob's own here; use the attribute {instead!r}"
                )
        for option, value in general.refused:
            if name.lstrip("-") == option and value in text:
                raise SettingsError(
                    f"with the option {name!r} ({text}) the submit command would not just answer "
                    "with the id of the job; leave it out: wait() waits for the end"
                )

    def _own_option(self, name: str, value: object) -> str:
        """Write a resource that is no common one as the scheduler's own option, as it stands."""
        if value is False:
            return ""
        general = self._backend.general
        text = str(value)
        _check_option(name, text)
        self._check_reserved(name, text)
        if name.startswith("-"):
            long_form = name.startswith("--") and "=" in general.option
            separator = "=" if long_form else " "
            return name if value is True or not text else f"{name}{separator}{text}"
        if len(name) == 1:
            return f"-{name}" if value is True else f"-{name} {text}"
        if general.resource and name not in general.options:
            text = "true" if value is True else text
            return general.resource.replace("{key}", name).replace("{value}", text)
        key = name.replace("_", general.underscore)
        form = general.flag if value is True else general.option
        return form.replace("{key}", key).replace("{value}", text)


def _quote(quote: Callable[[str], str], array_task: str, text: str) -> str:
    """Quote a word; what stands for the index in file names is left as it is where it may be."""
    if not array_task or array_task not in text:
        return quote(text)
    try:
        return quote(text)
    except SettingsError:
        return array_task.join(quote(part) for part in text.split(array_task))


def _check_option(name: str, text: str) -> None:
    is_odd = CONTROL_CHARACTERS.search(text) or CONTROL_CHARACTERS.search(name)
    has_space = " " in name.strip() and not name.startswith("-")
    if is_odd or has_space:
        raise SettingsError(
            f"resource {name!r} = {text!r} cannot stand in a directive: "
            "it has a line break or another control character"
        )
