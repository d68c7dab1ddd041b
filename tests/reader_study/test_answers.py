import sqlite3

import pytest

from femur_jax.errors import UserError
from femur_jax.files import write_checksums
from femur_jax.reader_study.answers import AnswerStore, OutOfTurnError
from femur_jax.reader_study.design import schedule
from femur_jax.reader_study.questions import QUESTIONS, check_answers
from femur_jax.reader_study.study import ANSWERS, open_study

SINGLE = {"source": 5, "label": 2, "realism": 3, "artefacts": ["texture"], "remark": ""}


def test_answers_are_saved_in_order(study):
    store = AnswerStore(study)
    store.invite("anna")
    token = store.readers()["anna"]
    store.invite("anna")  # a second invitation changes nothing
    assert store.readers() == {"anna": token} and len(token) >= 20
    assert store.items("anna") == schedule(study.design, study.cases, "anna")
    store.save("anna", 0, {"visible": []}, 10, final=False)
    store.save("anna", 0, {"visible": ["dark"]}, 20, final=True)
    store.save(
        "anna", 0, {"visible": ["dark"]}, 25, final=True
    )  # repeated as after a lost response
    for number, answers in ((0, {"visible": []}), (2, SINGLE)):
        with pytest.raises(OutOfTurnError):
            store.save("anna", number, answers, 20, final=True)
    with pytest.raises(OutOfTurnError):
        store.save("anna", 0, {"visible": []}, 20, final=False)
    store.save("anna", 1, SINGLE, 30, final=False)
    store.close()
    store = AnswerStore(open_study(study.folder))
    saved = [(a.item.block, a.answers, a.milliseconds, a.final) for a in store.answered("anna")]
    assert saved == [("display", {"visible": ["dark"]}, 20, True), ("practice", SINGLE, 30, False)]
    assert store.next_number("anna") == 1
    store.close()


def test_a_study_that_changed_is_refused(study):
    AnswerStore(study).close()
    study.image(study.cases[0].image).write_bytes(b"another")
    answers = {path: path.read_bytes() for path in study.folder.glob(f"{ANSWERS}*")}
    for path in answers:
        path.unlink()
    write_checksums(study.folder)  # somebody who edits a study may also write new checksums
    for path, data in answers.items():
        path.write_bytes(data)
    with pytest.raises(UserError, match="was changed after its readers started"):
        AnswerStore(open_study(study.folder))


def test_a_damaged_file_of_answers_is_refused(study):
    (study.folder / ANSWERS).write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match=r"answers\.sqlite cannot be opened"):
        AnswerStore(study)


@pytest.mark.parametrize("name", ["", "a b", "../anna", "x" * 41, "Åsa"])
def test_reader_codes_are_checked(study, name):
    store = AnswerStore(study)
    with pytest.raises(UserError, match="is not a valid reader code"):
        store.invite(name)
    store.close()


def test_a_full_disk_loses_no_saved_answers(study):
    store = AnswerStore(study)
    store.invite("anna")
    store.save("anna", 0, {"visible": []}, 10, final=True)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # SQLite raises SQLITE_FULL at this limit
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.save("anna", 1, SINGLE | {"remark": "x" * 9000}, 10, final=True)
    assert store.next_number("anna") == 1
    store._db.execute("PRAGMA max_page_count = 100000")
    store.save("anna", 1, SINGLE, 10, final=True)
    assert [answered.milliseconds for answered in store.answered("anna")] == [10, 10]
    store.close()


@pytest.mark.parametrize(
    "block, change",
    [
        ("single", {"source": 7}),
        ("single", {"source": True}),
        ("single", {"source": "5"}),
        ("single", {"artefacts": ["nothing"]}),
        ("single", {"remark": "x" * 2001}),
        ("single", {"synthetic": 1}),
        ("pair", {"synthetic": 0}),
    ],
)
def test_answers_that_the_page_cannot_send_are_refused(block, change):
    answers = {"single": SINGLE, "pair": {"synthetic": 2}}[block]
    check_answers(block, answers, final=True)
    with pytest.raises(ValueError):
        check_answers(block, answers | change, final=True)


def test_final_answers_must_be_complete():
    for question in QUESTIONS["single"]:
        rest = {name: answer for name, answer in SINGLE.items() if name != question.name}
        check_answers("single", rest, final=False)
        if question.kind == "scale":
            with pytest.raises(ValueError, match=question.name):
                check_answers("single", rest, final=True)
        else:
            check_answers("single", rest, final=True)
