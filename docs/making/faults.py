"""The page "Faults and answers": every error text of the code, found in the code, with the answers of answers.toml.

    python docs/making/faults.py            print the page
    python docs/making/faults.py --list     print file, line and text of every error

A text is the argument of an error that is made somewhere: a UserError, one of its kind, or another error of ours that
ends a command. What is put into it at run time stands in ‹angle brackets›, by its name in the code.
"""

from __future__ import annotations

import ast
import html
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "classification", "super_resolution", "tracking", "lwdna", "benchmarks")
# Where classes of errors begin; what derives from one of them is another.
BEGINNINGS = {
    "UserError",
    "NonFiniteOutput",
    "TrainingDiverged",
    "ExportDiffers",
    "WorkerDied",
    "ShadowedError",
}
BUILT_IN = {"ValueError", "TypeError", "AttributeError", "RuntimeError"}  # of public functions
WITHOUT_BUILT_IN = ("benchmarks/", "core/__init__.py", "lwdna/__init__.py")


@dataclass(frozen=True)
class Fault:
    """An error text.

    Attributes:
        file: where it is made, below the root.
        line: the line there.
        kind: the class of the error.
        text: the text, what varies in ‹›.
    """

    file: str
    line: int
    kind: str
    text: str

    @property
    def pattern(self) -> str:
        """A regular expression that fits the text with anything in the place of what varies."""
        parts = re.split(r"‹[^›]*›", self.text)
        return ".*?".join(re.sub(r"[.*+?^${}()|[\]\\]", r"\\\g<0>", part) for part in parts)

    @property
    def says(self) -> int:
        """Letters that do not vary."""
        return len(re.sub(r"‹[^›]*›|\W", "", self.text))


@dataclass(frozen=True)
class Answer:
    """A chapter of the page.

    Attributes:
        title: its heading.
        answer: what to do, Markdown.
        files: patterns of the files whose errors it answers.
    """

    title: str
    answer: str
    files: tuple[str, ...]


@cache
def answers() -> tuple[Answer, ...]:
    """The chapters, in order."""
    entries = tomllib.loads((Path(__file__).parent / "answers.toml").read_text(encoding="utf-8"))["answer"]
    return tuple(Answer(entry["title"], entry["answer"].strip(), tuple(entry["files"])) for entry in entries)


@cache
def _trees() -> Mapping[str, ast.Module]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def kinds() -> frozenset[str]:
    """Names of all classes of errors that end a command with a text."""
    bases: dict[str, set[str]] = {}
    for tree in _trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    found = set(BEGINNINGS)
    while grown := {name for name, above in bases.items() if above & found} - found:
        found |= grown
    return frozenset(found)


@cache
def collect() -> tuple[Fault, ...]:
    """Every error text, in the order of files and lines."""
    found = [fault for file, tree in _trees().items() for fault in _in_file(file, tree)]
    return tuple(sorted(found, key=lambda fault: (fault.file, fault.line)))


def _in_file(file: str, tree: ast.Module) -> Iterator[Fault]:
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    raised = {id(node.exc) for node in ast.walk(tree) if isinstance(node, ast.Raise)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        kind = ast.unparse(node.func).rpartition(".")[2]
        if kind == "check_known":  # which adds the word, and what is allowed
            for what in _texts(node.args[0], None):
                yield Fault("core/errors.py", node.lineno, "UserError", f"{what} '‹word›': ‹what is allowed›")
        public = kind in BUILT_IN and id(node) in raised and not file.startswith(WITHOUT_BUILT_IN)
        if kind not in kinds() and not public:
            continue
        if not node.args:
            continue
        inner = [f for f in functions if f.lineno <= node.lineno <= (f.end_lineno or f.lineno)]
        scope = max(inner, key=lambda f: f.lineno, default=None)
        for text in _texts(node.args[0], scope):
            if re.sub(r"‹[^›]*›|\W", "", text):
                yield Fault(file, node.lineno, kind, " ".join(text.split()))


def _texts(node: ast.expr, scope: ast.AST | None, depth: int = 0) -> Sequence[str]:
    """What an expression may be as a text."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        return ["".join(_piece(part, scope, depth) for part in node.values)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [a + b for a in _texts(node.left, scope, depth) for b in _texts(node.right, scope, depth)][:4]
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, scope, depth), *_texts(node.orelse, scope, depth)]
    if isinstance(node, ast.Name) and scope is not None and depth < 3:
        values = [
            inner.value
            for inner in ast.walk(scope)
            if isinstance(inner, ast.Assign)
            and any(isinstance(target, ast.Name) and target.id == node.id for target in inner.targets)
        ]
        texts = [text for value in values for text in _texts(value, scope, depth + 1)]
        if texts:
            return texts
    return [f"‹{_name(node)}›"]


def _piece(node: ast.expr, scope: ast.AST | None, depth: int) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    value = node.value if isinstance(node, ast.FormattedValue) else node
    if isinstance(value, ast.Constant):
        return str(value.value)
    return f"‹{_name(value)}›"


def _name(node: ast.expr) -> str:
    """What varies, by a word of the code."""
    if isinstance(node, ast.Name):
        return node.id.strip("_").replace("_", " ")
    if isinstance(node, ast.Attribute):
        return node.attr.strip("_").replace("_", " ")
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    if isinstance(node, ast.Call):
        inside = ast.unparse(node.func).rpartition(".")[2]
        if (
            inside in ("join", "str", "sorted", "repr", "len", "list", "type", "tuple", "min", "max")
            and node.args
        ):
            return _name(node.args[0])
        return inside.strip("_").replace("_", " ")
    if isinstance(node, ast.GeneratorExp | ast.ListComp):
        return _name(node.elt)
    if isinstance(node, ast.Starred):
        return _name(node.value)
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                return _name(part.value)
    return "…"


def chapter_of(file: str) -> Answer:
    """The chapter that answers the errors of a file: the one that names it, else the first of which a pattern fits.

    Raises:
        LookupError: there is none.
    """
    for answer in sorted(answers(), key=lambda answer: file not in answer.files):
        if any(fnmatch(file, pattern) for pattern in answer.files):
            return answer
    raise LookupError(f"docs/making/answers.toml has no answer for the errors of {file}")


def page() -> str:
    """The whole page, as Markdown.

    Raises:
        LookupError: errors of a file have no answer.
    """
    by_chapter: dict[str, dict[str, Fault]] = {answer.title: {} for answer in answers()}
    for fault in collect():
        by_chapter[chapter_of(fault.file).title].setdefault(fault.text, fault)
    count = sum(len(texts) for texts in by_chapter.values())
    lines = [
        "# Faults and answers",
        "",
        f"All {count} error texts of the code, by what they are about. Paste what you read, or type a few words of it:",
        "",
        '<input id="fault" type="search" placeholder="error: …" aria-label="Search the error texts">',
        '<p id="fault-count" role="status"></p>',
        "",
        "The texts are collected from the code when this page is built. What depends on your case stands in",
        "‹brackets›. A message says what is wrong, where, and what to do; above each list stands what the messages",
        "leave out. Exit statuses: [how commands end](work_directories.md#how-commands-end). With `--debug` a command",
        "shows where it failed.",
    ]
    for answer in answers():
        texts = sorted(by_chapter[answer.title].values(), key=lambda fault: (fault.file, fault.line))
        lines += ["", f"## {answer.title}", "", answer.answer, "", '<ul class="faults">']
        lines += [
            f'<li data-pattern="{html.escape(fault.pattern)}" data-says="{fault.says}"><code>'
            f"{html.escape(fault.text).replace('‹', '<i>‹').replace('›', '›</i>')}</code></li>"
            for fault in texts
        ]
        lines.append("</ul>")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if "--list" in sys.argv:
        for fault in collect():
            print(f"{fault.file}:{fault.line}: {fault.kind}: {fault.text}")
    else:
        print(page())
