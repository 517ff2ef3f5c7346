"""Modules with a single wrong line, made by mutmut's operators.

mutmut's own runner leaves out what is decorated (``@torch.no_grad()``, properties) and can't follow the links of this
tree (``machina/algorithms``, ``machina/envs``); so its operators alone are taken, and applied here.
"""

from __future__ import annotations

import difflib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import libcst as cst
from mutmut.mutation.mutators import mutation_operators, operator_string

ARGUMENTS_LEFT_ALONE = {
    "description": "the text of --help",
    "strict": "of zip: guards against our own mistakes, no input makes the lengths differ",
    "fused": "of Adam: the same step, faster",
    "set_to_none": "of zero_grad: the same gradients, less memory",
    "non_blocking": "copies to a GPU without waiting",
    "device": "where there is no GPU every tensor is on the CPU; `make test-gpu` looks at the rest",
}
"""Arguments, by keyword or by the name of what is given, that no test on a CPU can distinguish from others, and why."""

NEVER_RUN = (cst.Annotation, cst.Import, cst.ImportFrom, cst.Raise)
"""Nodes whose parts aren't changed: annotations are not evaluated, and errors' texts are for people; that they are
raised depends on a condition, which is changed."""


class WrongLine(NamedTuple):
    """A module with one wrong line."""

    file: str
    """Path from the root of the tree."""
    line: int
    before: str
    """What differs, without indentation."""
    after: str
    source: str
    """The whole module."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}\n  - {self.before}\n  + {self.after}"


class Change(NamedTuple):
    """A node and what takes its place."""

    file: str
    module: Any
    node: Any
    mutated: Any


def sampled(root: Path, files: Sequence[str], count: int, seed: int) -> list[WrongLine]:
    """So many wrong lines of all that ``files`` allow, every change equally likely, in a random order."""
    changes = [change for file in files for change in changes_of(root, file)]
    random.Random(seed).shuffle(changes)
    found: list[WrongLine] = []
    for change in changes:
        if len(found) == count:
            break
        if (line := applied(change)) is not None:
            found.append(line)
    return found


def changes_of(root: Path, file: str) -> list[Change]:
    """All changes of a module, in the order of its lines."""
    module = cst.parse_module((root / file).read_text())
    return [Change(file, module, node, mutated) for node, mutated in _walk(module)]


def applied(change: Change) -> WrongLine | None:
    """The module after a change; None if it is the same as before, or no Python any more."""
    before = change.module.code
    after = change.module.deep_replace(change.node, change.mutated).code
    try:
        compile(after, change.file, "exec")
    except SyntaxError:
        return None
    removed, added, first = [], [], 0
    old, new = before.splitlines(), after.splitlines()
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind != "equal":
            first = first or i + 1
            removed += [line.strip() for line in old[i:j]]
            added += [line.strip() for line in new[k:m]]
    if not first:
        return None
    return WrongLine(change.file, first, " ".join(removed), " ".join(added), after)


def _walk(node: Any) -> Iterator[tuple[Any, Any]]:
    """Nodes and what may stand in their place."""
    if isinstance(node, NEVER_RUN) or _is_for_types_alone(node):
        return
    for kind, operator in mutation_operators:
        if isinstance(node, kind) and not (operator is operator_string and _is_docstring(node)):
            made = list(operator(node))
            for mutated in made[:1] if operator is operator_string else made:  # of three spellings one will do
                if not _only_left_alone(node, mutated):
                    yield node, mutated
    for child in node.children:
        if not _is_left_alone(child):
            yield from _walk(child)


def _is_docstring(node: Any) -> bool:
    return isinstance(node, cst.SimpleString) and node.raw_value.startswith('"""')


def _is_left_alone(node: Any) -> bool:
    if not isinstance(node, cst.Arg):
        return False
    given = node.value.attr if isinstance(node.value, cst.Attribute) else node.value
    names = {node.keyword.value if node.keyword else "", given.value if isinstance(given, cst.Name) else ""}
    return bool(names & ARGUMENTS_LEFT_ALONE.keys())


def _only_left_alone(node: Any, mutated: Any) -> bool:
    """A call that differs in such an argument."""
    if not isinstance(node, cst.Call) or not isinstance(mutated, cst.Call):
        return False
    if len(node.args) == len(mutated.args):
        changed = [one for one, other in zip(node.args, mutated.args, strict=True) if one is not other]
    else:
        changed = [one for one in node.args if not any(one is other for other in mutated.args)]
    return bool(changed) and all(_is_left_alone(arg) for arg in changed)


def _is_for_types_alone(node: Any) -> bool:
    """``if TYPE_CHECKING:``, overloads, type variables and names of types."""
    if isinstance(node, cst.If):
        return isinstance(node.test, cst.Name) and node.test.value == "TYPE_CHECKING"
    if isinstance(node, cst.FunctionDef):
        return any(
            isinstance(each.decorator, cst.Name) and each.decorator.value == "overload" for each in node.decorators
        )
    if isinstance(node, cst.Assign) and isinstance(node.targets[0].target, cst.Name):
        name = node.targets[0].target.value
        called = node.value.func if isinstance(node.value, cst.Call) else None
        return (isinstance(node.value, cst.Subscript) and name[0].isupper() and not name.isupper()) or (
            isinstance(called, cst.Name) and called.value == "TypeVar"
        )
    return False
