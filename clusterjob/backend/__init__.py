"""A scheduler as data: what ``backend.ini`` and its template say, and what follows from it.

The room is pure: it reads files of backends, renders scripts, and reads what commands printed.
Running commands is the engine's.
"""

from clusterjob.backend.dialects import find_dialect, same_dialect, without_directives
from clusterjob.backend.exit_record import ExitRecord, read_exit_record
from clusterjob.backend.ini import Sections, parse_boolean, read_ini
from clusterjob.backend.load import load_backend
from clusterjob.backend.lookup import (
    find_backend,
    job_variable_patterns,
    list_backends,
)
from clusterjob.backend.model import (
    EXITED,
    TIMEOUT_OR_MEMORY,
    AfterForm,
    Backend,
    ErrorKind,
    Limits,
)
from clusterjob.backend.names import common_name, is_known_word
from clusterjob.backend.native import NativeOption, directive_lines, read_native
from clusterjob.backend.parse import Answer, Reading, read_output
from clusterjob.backend.render import ArrayOfJobs, Guard, Renderer, Script
from clusterjob.backend.requested import Quantity, Resources, check_once, readable
from clusterjob.backend.resources import (
    COMMON_RESOURCES,
    ResourceValue,
    check_resource,
    check_spelling,
    format_array,
    parse_array,
)
from clusterjob.backend.templates import (
    check_braces,
    names_in,
    render_text,
    warn_of_unused,
)

__all__ = [
    "COMMON_RESOURCES",
    "EXITED",
    "TIMEOUT_OR_MEMORY",
    "AfterForm",
    "Answer",
    "ArrayOfJobs",
    "Backend",
    "ErrorKind",
    "ExitRecord",
    "Guard",
    "Limits",
    "NativeOption",
    "Quantity",
    "Reading",
    "Renderer",
    "ResourceValue",
    "Resources",
    "Script",
    "Sections",
    "check_braces",
    "check_once",
    "check_resource",
    "check_spelling",
    "common_name",
    "directive_lines",
    "find_backend",
    "find_dialect",
    "format_array",
    "is_known_word",
    "job_variable_patterns",
    "list_backends",
    "load_backend",
    "names_in",
    "parse_array",
    "parse_boolean",
    "read_exit_record",
    "read_ini",
    "read_native",
    "read_output",
    "readable",
    "render_text",
    "same_dialect",
    "warn_of_unused",
    "without_directives",
]
