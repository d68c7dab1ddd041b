"""Plain English in docstrings, comments and messages, as far as a program can tell.

    python tests/prose.py femur_jax/data tests/data docs/guide.md

The script prints each fragment and each phrase to avoid, by file and line.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

FEWEST_WORDS = 3

# Prepositions, conjunctions, pronouns, adverbs and verbs: a description that begins with one of
# them makes sense only next to the name that it describes.
_WORDS = """
    of with without where when while from by see as in at on to for into onto over under within
    beyond between before after about against among along across per like than through via until
    since because if unless so such that this these those it its they them their he she his her
    who whom whose which what how why and or but nor not also only just likewise otherwise else
    is are was were be been being has have had does do did can could may might must shall should
    will would shows gives holds names tells says makes takes ends begins keeps maps adds counts
    reads writes runs uses used made found kept given set taken chosen shown named called relative
    likewise same hence thus then there here together apart both
"""
NOT_A_BEGINNING = frozenset(_WORDS.split())
AVOIDED = (
    (r"(?<!there )\b(is|are|was|were) no\b(?! (longer|more|less|fewer|better)\b)", "is not a ..."),
    (r"\b(go|goes|going|went|gone) on\b", "continue, resume"),
    (r"\b(told|is told|are told|tells (?!apart))\b", "report, state, inform"),
    (r"\bbeside\b", "next to, in addition to"),
    (r"\bof which\b", "split the sentence"),
    (r"\b(shall|anew|lest)\b", "will, must, again, so that ... not"),
)
_ENTRY = re.compile(r"^(\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*):(?:\s+(.*))?$")
_SECTIONS = ("Args:", "Attributes:")


def fragments(path: Path) -> Iterator[tuple[int, str]]:
    """Descriptions of arguments and attributes that do not stand alone, with their lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring:
                line = node.body[0].lineno
                for name, text in entries(docstring):
                    if not stands_alone(text):
                        yield line, f"{name}: {text}"
        if isinstance(node, ast.Module | ast.ClassDef):
            for first, second in zip(node.body, node.body[1:], strict=False):
                text = _text_of(second)
                is_field = isinstance(first, ast.Assign | ast.AnnAssign) and text is not None
                if is_field and not stands_alone(text):
                    yield second.lineno, text


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and descriptions of the sections Args and Attributes of a docstring."""
    lines = docstring.splitlines()
    section, indent, name, words = False, 0, "", []
    for line in [*lines, "end"]:
        stripped, depth = line.strip(), len(line) - len(line.lstrip())
        match = _ENTRY.match(stripped) if section and (not indent or depth == indent) else None
        if name and (match or (stripped and depth < max(indent, 1))):
            yield name, " ".join(words)
            name, words = "", []
        if stripped and depth == 0:
            section, indent = stripped in _SECTIONS, 0
        elif match:
            indent, name, words = depth, match[1], [match[2] or ""]
        elif name and stripped:
            words.append(stripped)


def stands_alone(text: str) -> bool:
    """Whether a description has three words, and its first may be an article, noun or number."""
    words = re.findall(r"[\w'`.\-]+", text)
    return len(words) >= FEWEST_WORDS and words[0].lower().strip("`'.") not in NOT_A_BEGINNING


def avoided(path: Path) -> Iterator[tuple[int, str]]:
    """Phrases to avoid, with their lines."""
    if path.name in ("prose.py", "test_prose.py"):  # they name the phrases
        return
    for line, text in sorted(_prose(path)):
        for pattern, better in AVOIDED:
            for match in re.finditer(pattern, text, re.IGNORECASE):
                number = line + text[: match.start()].count("\n")
                around = text[max(match.start() - 30, 0) : match.end() + 30].replace("\n", " ")
                yield number, f"'{match[0]}' ({better}): ...{around}..."


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    if path.suffix != ".py":
        yield 1, path.read_text()
        return
    kinds = (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    comment: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            if comment and token.start[0] == last + 1:
                comment.append(token.string.lstrip("# "))
            else:
                if comment:
                    yield first, "\n".join(comment)
                comment, first = [token.string.lstrip("# ")], token.start[0]
            last = token.start[0]
        elif token.type in kinds and " " in token.string:  # a single word is a name
            yield token.start[0], token.string
    if comment:
        yield first, "\n".join(comment)


def _text_of(node: ast.stmt) -> str | None:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return node.value.value if isinstance(node.value.value, str) else None
    return None


def files_below(paths: list[Path]) -> list[Path]:
    """Files of the kinds that are checked, in folders and below, or as they are named."""
    kinds = (".py", ".md", ".j2", ".js", ".html")
    below = [p for path in paths for p in (path.rglob("*") if path.is_dir() else [path])]
    return sorted(path for path in below if path.is_file() and path.suffix in kinds)


def complaints(paths: list[Path]) -> list[str]:
    """One line for each fragment and each phrase to avoid."""
    lines = []
    for path in files_below(paths):
        if path.suffix == ".py":
            lines += [f"{path}:{n}: fragment: {text}" for n, text in fragments(path)]
        lines += [f"{path}:{n}: {text}" for n, text in avoided(path)]
    return lines


if __name__ == "__main__":
    result = complaints([Path(argument) for argument in sys.argv[1:]])
    print("\n".join([*result, f"{len(result)} complaints"]))
    sys.exit(bool(result))
