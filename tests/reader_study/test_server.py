import csv
import json
import shutil
import socket
import threading
from contextlib import closing, suppress

import pytest
import uvicorn

from femur_jax.main import main
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.server import PromptHTTP, application
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


ODD_BODIES = {
    "nested arrays": b"[" * 60_000,
    "nested answers": b'{"answers": ' + b'{"a":' * 9000 + b"1" + b"}" * 9000 + b"}",
    "thousands of digits": b'{"answers": {}, "milliseconds": ' + b"9" * 5000 + b', "final": true}',
    "infinity": b'{"answers": {}, "milliseconds": 1e999, "final": true}',
    "a lone surrogate": b'{"answers": {"remark": "\\ud800"}, "milliseconds": 1, "final": false}',
    "a box ticked twice": b'{"answers": {"artefacts": ["texture", "texture"]}, "milliseconds": 1,'
    b' "final": false}',
    "UTF-32": json.dumps({}).encode("utf-32"),
}


def test_odd_requests_get_an_answer_and_no_traceback(served):
    study, server = served
    token = server.token("anna")
    assert save(server, "anna", 0, {"visible": []}) == 204
    for name, body in ODD_BODIES.items():
        status, _, _ = server.ask("/api/items/1", token=token, method="PUT", body=body)
        assert (name, status) == (name, 422)
    for digits in (30, 5000):
        number = "9" * digits
        assert server.ask(f"/api/items/{number}/images/0", token=token)[0] == 404
        assert server.ask(f"/api/items/1/images/{number}", token=token)[0] == 404
        assert server.ask(f"/api/items/{number}", token=token, method="PUT", body=b"{}")[0] == 405
    start = f"PUT /api/items/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    for rest in ("", "Content-Length: 9\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall((start + rest).encode())
    images = study.folder / "images"
    images.rename(study.folder / "elsewhere")
    assert server.ask("/api/items/1/images/0", token=token)[0] == 503
    (study.folder / "elsewhere").rename(images)
    assert server.ask("/api/items/1/images/0", token=token)[0] == 200
    assert server.printed_errors() == ""


def test_nothing_is_acknowledged_once_the_file_of_answers_is_gone(served):
    study, server = served
    assert save(server, "anna", 0, {"visible": []}) == 204
    moved = study.folder / "moved"
    for number, suffix in enumerate(("", "-wal", "-shm"), start=1):
        file = study.folder / f"answers.sqlite{suffix}"
        file.rename(moved)
        assert save(server, "anna", number, SINGLE) == 507
        shutil.copy(moved, file)  # another file of the same name
        assert save(server, "anna", number, SINGLE) == 507
        file.unlink()
        moved.rename(file)
        assert save(server, "anna", number, SINGLE) == 204
    with (study.folder / "answers.sqlite").open("r+b") as file:
        file.truncate(100)
    assert save(server, "anna", 4, SINGLE) == 507
    assert server.printed_errors() == ""


def test_a_request_that_never_ends_is_closed(study, monkeypatch):
    monkeypatch.setattr(PromptHTTP, "seconds", 0.2)
    store = AnswerStore(study)
    store.invite("anna")
    token = store.readers()["anna"]
    store.close()
    listener = socket.create_server(("127.0.0.1", 0))
    servers = []

    def run():
        with closing(AnswerStore(study)) as opened:  # SQLite keeps to one thread
            app = application(study, opened)
            config = uvicorn.Config(app, http=PromptHTTP, ws="none", log_config=None)
            servers.append(uvicorn.Server(config))
            servers[0].run(sockets=[listener])

    thread = threading.Thread(target=run)
    thread.start()
    try:
        head = f"PUT /api/items/0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
        for text in ("", "GET / HTT", head + "Content-Length: 9\r\n\r\n{"):
            with socket.create_connection(listener.getsockname(), timeout=20) as connection:
                connection.sendall(text.encode())
                with suppress(ConnectionResetError):
                    assert connection.recv(1000) == b""
        with socket.create_connection(listener.getsockname(), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    finally:
        servers[0].should_exit = True
        thread.join()


def test_remarks_reach_the_tables_as_text(study):
    """Old versions saved lone surrogates, and a spreadsheet executes what begins with a sign."""
    remarks = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a\ud800b", 'plain, "quoted"', "Å\n="]
    with closing(AnswerStore(study)) as store:
        store.invite("anna")
        blocks = [item.block for item in store.items("anna")][: 5 + len(remarks)]
        for n, block in enumerate(blocks):
            remark = {"remark": remarks[n % len(remarks)]}
            answers = {"visible": []} if block == "display" else SINGLE | remark
            store.save("anna", n, answers, 10, final=True)
    assert main(["readers", "score", str(study.folder)]) == 0
    out = study.folder.with_name("study.results")
    with (out / "answers.csv").open(newline="", encoding="utf-8") as file:
        found = [row["answer_remark"] for row in csv.DictReader(file) if row["block"] == "single"]
    told = ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "a\ufffdb", 'plain, "quoted"', "Å\n="]
    assert found == [told[n % len(told)] for n, block in enumerate(blocks) if block == "single"]
    assert "a\ufffdb" in (out / "results.html").read_text(encoding="utf-8")


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
