"""Attributes and resources that are set on a class of job scripts: the defaults of its jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusterjob.backend import COMMON_RESOURCES, Resources, common_name, is_known_word
from clusterjob.errors import SettingsError
from clusterjob.profile import ATTRIBUTES, check_gone

_DEFAULTS = "_class_defaults"


class JobScriptType(type):
    """The class of :class:`JobScript` and of those derived from it.

    ``JobScript.backend = "slurm"``, ``JobScript.resources["queue"] = "long"``, and the same in the
    body of a derived class, are defaults of the jobs that are made from then on. A name that is
    neither is a parameter.
    """

    def __new__(
        mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]
    ) -> JobScriptType:
        given = {
            key: namespace.pop(key) for key in list(namespace) if _is_default(key)
        }
        cls = super().__new__(mcs, name, bases, namespace)
        type.__setattr__(cls, _DEFAULTS, {})
        for key, value in given.items():
            setattr(cls, key, value)
        return cls

    def __setattr__(cls, name: str, value: object) -> None:
        is_ours = _is_default(name)
        if not is_ours and (name.startswith("_") or hasattr(cls, name)):
            super().__setattr__(name, value)
            return
        check_gone(name)
        own = vars(cls)[_DEFAULTS]
        if name == "resources":
            if not isinstance(value, Mapping):
                raise SettingsError(f"resources are a mapping, not {value!r}")
            own[name] = Resources(value)
        else:
            own[name] = value

    def __delattr__(cls, name: str) -> None:
        own = vars(cls)[_DEFAULTS]
        if _is_default(name) or name in own:
            own.pop(name, None)
        else:
            super().__delattr__(name)

    def __getattr__(cls, name: str) -> object:
        for level in cls.__mro__:
            found = vars(level).get(_DEFAULTS, {})
            if name in found:
                return found[name]
        if name == "resources":
            return vars(cls)[_DEFAULTS].setdefault(name, Resources())
        if _is_default(name):
            return None
        raise AttributeError(
            f"type object {cls.__name__!r} has no attribute {name!r}"
        )

    def defaults(cls) -> dict[str, object]:
        """Return the defaults of this class, over those of the classes that it derives from."""
        found: dict[str, object] = {}
        for level in reversed(cls.__mro__):
            own = dict(vars(level).get(_DEFAULTS, {}))
            found |= own.pop("resources", {})
            found |= own
        return found

    def forget(cls, names: Mapping[str, object]) -> None:
        """Forget the defaults of this class that something else gives from now on."""
        own = vars(cls)[_DEFAULTS]
        for name in names:
            own.pop(name, None)
            own.get("resources", {}).pop(common_name(name), None)


def _is_default(name: str) -> bool:
    return (
        name == "resources"
        or name in (*ATTRIBUTES, *COMMON_RESOURCES)
        or is_known_word(name)
    )
