"""The measure of how roomy the code is; ``make lint`` prints it, and fails where it is packed.

    python tests/style.py FOLDER...

A line of code is one that is neither blank, nor a comment, nor in a docstring. Tokens are those of
Python's tokenizer without line breaks, indents and comments.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

LONG_LINE = 100  # characters
MOST_LONG = 0.02  # share of lines
MOST_TOKENS_A_LINE = 7.5
MOST_TOKENS_A_MODULE = 5000
MOST_TOKENS_A_FUNCTION = 400
ONE_FILE = {
    "spool.py": 8700,
    "runner.py": 8300,
}  # what travels to other hosts as one file, and its own bound
_NO_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass
class Measure:
    """What was counted in some modules."""

    lines: int = 0  # that are not blank
    long: int = 0
    code: int = 0
    comments: int = 0
    docstrings: int = 0
    tokens: int = 0
    modules: dict[str, int] = field(default_factory=dict)  # tokens
    functions: dict[str, int] = field(default_factory=dict)  # tokens

    @property
    def share_long(self) -> float:
        return self.long / self.lines

    @property
    def tokens_a_line(self) -> float:
        return self.tokens / self.code

    @property
    def share_docstrings(self) -> float:
        return self.docstrings / (self.code + self.docstrings)

    @property
    def share_comments(self) -> float:
        return self.comments / self.code

    def add(self, path: Path) -> None:
        """Count a module."""
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
        numbers = [token.start[0] for token in tokens if token.type not in _NO_TOKENS]
        tree = ast.parse(text)
        documented = set(_docstring_lines(tree))
        not_blank = [number for number, line in enumerate(lines, 1) if line.strip()]
        comments = [
            number
            for number in not_blank
            if lines[number - 1].lstrip().startswith("#")
        ]
        self.lines += len(not_blank)
        self.long += sum(len(line) > LONG_LINE for line in lines)
        self.comments += len(comments)
        self.docstrings += sum(number in documented for number in not_blank)
        self.code += len(set(not_blank) - documented - set(comments))
        count = sum(number not in documented for number in numbers)
        self.tokens += count
        self.modules[str(path)] = count
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                own = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                size = sum(
                    number in own and number not in documented for number in numbers
                )
                self.functions[f"{path}:{node.lineno} {node.name}"] = size

    def __str__(self) -> str:
        return (
            f"{self.code} lines of code, {self.share_long:.1%} of all lines over {LONG_LINE} "
            f"characters, {self.tokens_a_line:.2f} tokens a line, "
            f"docstrings {self.share_docstrings:.0%} of code and docstrings, "
            f"comments {self.share_comments:.1%} of code"
        )

    def complaints(self) -> Iterator[str]:
        """Yield what is too packed, too long or too large."""
        if self.share_long > MOST_LONG:
            yield f"more than {MOST_LONG:.0%} of lines over {LONG_LINE} characters"
        if self.tokens_a_line > MOST_TOKENS_A_LINE:
            yield f"more than {MOST_TOKENS_A_LINE} tokens a line"
        for name, size in self.modules.items():
            most = ONE_FILE.get(Path(name).name, MOST_TOKENS_A_MODULE)
            if size > most:
                yield f"{name}: {size} tokens, more than {most}"
        for name, size in self.functions.items():
            if size > MOST_TOKENS_A_FUNCTION:
                yield f"{name}: {size} tokens, more than {MOST_TOKENS_A_FUNCTION}"


def _docstring_lines(tree: ast.Module) -> Iterator[int]:
    """Yield the numbers of the lines that docstrings stand in."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if not isinstance(node, documented) or ast.get_docstring(node) is None:
            continue
        first = node.body[0]
        yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def measure(folder: Path) -> Measure:
    """Count all modules of a folder."""
    found = Measure()
    for path in sorted(folder.rglob("*.py")):
        found.add(path)
    return found


def main() -> None:
    failed = False
    for name in sys.argv[1:]:
        found = measure(Path(name))
        print(f"{name}: {found}")
        for complaint in found.complaints():
            print(f"{name}: {complaint}")
            failed = True
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
