import json

import pytest

from femur_jax.main import main
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.study import open_study
from tests.reader_study.conftest import Server, items_of
from tests.reader_study.test_answers import SINGLE


def save(server, reader, number, answers, *, final=True, milliseconds=1000):
    body = json.dumps({"answers": answers, "milliseconds": milliseconds, "final": final}).encode()
    token = server.token(reader)
    return server.ask(f"/api/items/{number}", token=token, method="PUT", body=body)[0]


def test_a_session_over_http(served):
    study, server = served
    assert list(server.links) == ["anna", "bo"]
    token = server.token("anna")
    status, body, headers = server.ask("/api/session", token=token)
    session = json.loads(body)
    assert (status, session["reader"], session["next"]) == (200, "anna", 0)
    assert headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert session["blocks"].count("single") == 30
    # The response names no source, class, file or patient.
    text = body.decode() + str(headers)
    for case in study.cases:
        assert case.image not in text and case.radiograph not in text
    assert "gan" not in text and "diffusion" not in text
    assert save(server, "anna", 0, {"visible": []}) == 204
    assert save(server, "anna", 1, SINGLE, final=False) == 204
    session = json.loads(server.ask("/api/session", token=token)[1])
    assert (session["next"], session["draft"]["answers"]) == (1, SINGLE)
    assert save(server, "anna", 3, SINGLE) == 409
    for wrong in ({"source": 9}, {"source": 5}, {"visible": []}):
        assert save(server, "anna", 1, wrong) == 422
    for milliseconds in (-5, 1.5, True, 10**30):
        assert save(server, "anna", 1, SINGLE, milliseconds=milliseconds) == 422
    assert save(server, "anna", 1, list(SINGLE.items())) == 422
    assert save(server, "anna", 99, SINGLE) == 422
    for body in (b"", b"{", b"[]", b"\xff", b'{"answers": 3, "milliseconds": 1, "final": true}'):
        assert server.ask("/api/items/1", token=token, method="PUT", body=body)[0] == 422
    large = b" " * 70000
    assert server.ask("/api/items/1", token=token, method="PUT", body=large)[0] == 413
    assert json.loads(server.ask("/api/session", token=server.token("bo"))[1])["next"] == 0


def test_only_the_radiographs_of_the_current_and_the_next_item_are_served(served):
    study, server = served
    token = server.token("anna")
    items = items_of(study, "anna")
    assert save(server, "anna", 0, {"visible": []}) == 204
    for number in (1, 2):
        status, body, headers = server.ask(f"/api/items/{number}/images/0", token=token)
        assert status == 200 and body == study.image(items[number].images[0]).read_bytes()
        assert headers["cache-control"] == "no-store"
        assert items[number].images[0] not in str(headers)
    for path in ("0/images/0", "3/images/0", "1/images/1", "999/images/0", "-1/images/0"):
        assert server.ask(f"/api/items/{path}", token=token)[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        "/../study.json",
        "/../../study.json",
        "/%2e%2e/study.json",
        "/..%2fstudy.json",
        "/..%5cstudy.json",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/../../../../../../../../etc/passwd",
        "/../server.py",
        "/study.json",
        "/answers.sqlite",
        "/api/items/1/images/..%2f..%2fstudy.json",
        "/images/../../study.json",
    ],
)
def test_no_path_leads_out_of_the_page_folder(server, path):
    status, body, _ = server.ask(path, token=server.token("anna"))
    assert status in (400, 404) and len(body) < 200


@pytest.mark.parametrize("path", ["/api/session", "/api/items/0/images/0", "/api/items/1/images/0"])
def test_a_wrong_token_is_refused(server, path):
    for token in ("", "x", server.token("anna")[:-1], server.token("anna") + "A"):
        assert server.ask(path, token=token)[0] == 403
    body = json.dumps({"answers": {"visible": []}, "milliseconds": 1, "final": True}).encode()
    assert server.ask("/api/items/0", token="x", method="PUT", body=body)[0] == 403


def test_other_host_names_are_refused(server):
    assert server.ask("/", host="evil.example")[0] == 400
    assert server.ask("/", host=f"localhost:{server.port}")[0] == 200


def test_acknowledged_answers_survive_a_kill(study):
    done = 0
    port = 0
    for _ in range(3):
        with Server(study.folder, "anna", port=port) as server:
            port = server.port
            for _ in range(5):
                answers = {"visible": ["lines"]} if done == 0 else SINGLE
                assert save(server, "anna", done, answers, milliseconds=100 + done) == 204
                done += 1
            server.kill()
    store = AnswerStore(open_study(study.folder))
    assert [a.milliseconds for a in store.answered("anna")] == list(range(100, 115))
    store.close()


def test_serving_reports_missing_readers_and_a_used_port(study, server, capsys):
    assert main(["readers", "serve", str(study.folder)]) == 2
    assert "No reader was invited" in capsys.readouterr().err
    arguments = ["serve", str(study.folder), "--invite", "anna", "--port", str(server.port)]
    assert main(["readers", *arguments]) == 2
    assert f"Port {server.port}: Address already in use" in capsys.readouterr().err
