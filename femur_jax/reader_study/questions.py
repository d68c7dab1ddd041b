"""What a reader is asked, block by block, and which answers there are."""

from dataclasses import dataclass
from typing import Any, Literal

CONFIDENCE = 6
"""Steps of a confidence scale: 1 to 3 for the first class, surest first, 4 to 6 for the second."""

LONGEST_REMARK = 2000


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: Key of its answer, and of its text on the page.
        kind: 'scale': one step of `options`; 'ticks': any of `options`; 'text': free.
        options: Names of the steps (answered by number, from 1) or of the boxes.
    """

    name: str
    kind: Literal["scale", "ticks", "text"]
    options: tuple[str, ...] = ()


def _confidence(first: str, second: str) -> tuple[str, ...]:
    sure = ("definitely", "probably", "possibly")
    return (*(f"{s} {first}" for s in sure), *(f"{s} {second}" for s in reversed(sure)))


_SINGLE = (
    Question("source", "scale", _confidence("real", "synthetic")),
    Question("label", "scale", _confidence("NFF", "AFF")),
    Question("realism", "scale", ("not at all", "hardly", "partly", "mostly", "fully")),
    Question(
        "artefacts",
        "ticks",
        ("anatomy", "fracture", "texture", "pattern", "implant", "contrast"),
    ),
    Question("remark", "text"),
)

QUESTIONS: dict[str, tuple[Question, ...]] = {
    "display": (Question("visible", "ticks", ("dark", "bright", "lines")),),
    "practice": _SINGLE,
    "single": _SINGLE,
    "pair": (Question("synthetic", "scale", ("left", "right")), Question("remark", "text")),
}
"""By block."""


def check_answers(block: str, answers: dict[str, Any], *, final: bool) -> None:
    """Refuses what no page sends.

    Args:
        block: Key of QUESTIONS.
        answers: By question; a scale's from 1, a list of ticked boxes, or text.
        final: Whether every scale must be answered.

    Raises:
        ValueError: An answer belongs to no question, is none of the options, or is missing.
    """
    questions = {question.name: question for question in QUESTIONS[block]}
    for name, answer in answers.items():
        question = questions.get(name)
        if question is None:
            raise ValueError(f"no question {name!r} in block {block}")
        if question.kind == "scale":
            fits = type(answer) is int and 1 <= answer <= len(question.options)
        elif question.kind == "ticks":
            fits = isinstance(answer, list) and all(box in question.options for box in answer)
        else:
            fits = isinstance(answer, str) and len(answer) <= LONGEST_REMARK
        if not fits:
            raise ValueError(f"{answer!r} answers no question {name!r}")
    scales = {question.name for question in QUESTIONS[block] if question.kind == "scale"}
    if final and not scales <= answers.keys():
        raise ValueError(f"no answer to {', '.join(sorted(scales - answers.keys()))}")
