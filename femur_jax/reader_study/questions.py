"""Questions of each block, and their possible answers."""

from dataclasses import dataclass
from typing import Any, Literal

CONFIDENCE = 6
"""Number of steps of a confidence scale. 1 to 3 mean the first class and 4 to 6 the second; 1 and 6
are the most confident."""

LONGEST_REMARK = 2000

VERDICTS = ("reject", "accept")
"""Verdicts on a radiograph for a release."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: Key of the answer, and of the question's text on the page.
        kind: Type of answer: 'scale' is one step of `options`, 'ticks' any number of `options`, and
            'text' free text.
        options: Possible answers: the steps of a scale (numbered from 1) or the tick boxes.
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
    "selection": (Question("verdict", "scale", VERDICTS), Question("remark", "text")),
}
"""Questions of each block, by its name."""


def well_formed(text: str) -> str:
    """The text with a replacement sign for each lone surrogate, which no encoding can write."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def check_answers(block: str, answers: dict[str, Any], *, final: bool) -> None:
    """Checks that the page could have sent these answers.

    Args:
        block: Block of the questions, a key of QUESTIONS.
        answers: Answers by question: a step from 1, a list of ticked boxes, or text.
        final: Whether every scale must be answered.

    Raises:
        ValueError: An answer belongs to no question, matches no option, or is missing.
    """
    questions = {question.name: question for question in QUESTIONS[block]}
    for name, answer in answers.items():
        question = questions.get(name)
        if question is None:
            raise ValueError(f"block {block} has no question {name!r}")
        if question.kind == "scale":
            fits = type(answer) is int and 1 <= answer <= len(question.options)
        elif question.kind == "ticks":
            fits = isinstance(answer, list) and all(box in question.options for box in answer)
            fits = fits and len(answer) == len(set(answer))
        else:
            fits = isinstance(answer, str) and len(answer) <= LONGEST_REMARK
            fits = fits and answer == well_formed(answer)
        if not fits:
            raise ValueError(f"{answer!r} is not a valid answer to {name!r}")
    scales = {question.name for question in QUESTIONS[block] if question.kind == "scale"}
    if final and not scales <= answers.keys():
        raise ValueError(f"missing answers: {', '.join(sorted(scales - answers.keys()))}")
