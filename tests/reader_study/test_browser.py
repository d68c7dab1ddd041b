"""Uses the page in Chromium as a reader would."""

import csv
import json
import re
import resource
import shutil
import time
from contextlib import closing

import numpy as np
import pytest
import scipy.ndimage

from femur_jax.main import main
from femur_jax.reader_study.answers import AnswerStore
from femur_jax.reader_study.build import build
from femur_jax.reader_study.design import Design
from femur_jax.reader_study.questions import QUESTIONS
from femur_jax.reader_study.study import ANSWERS, open_study
from tests.reader_study.conftest import Server, items_of
from tests.reader_study.test_pictures import decode

sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture
def browser(chromium):
    """Opens pages in separate browser contexts, and fails the test on any script error."""
    contexts, errors = [], []

    def open_page(link, *, width=900, height=600):
        context = chromium.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(link)
        page.wait_for_selector("#overlay.open h1:not(:empty)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []


SMALL = Design(seed=1, single=4, repeats=0.25, pairs=2, practice=0, margin=0.1)


@pytest.fixture(scope="module")
def small(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small") / "study"
    build(folder, SMALL, sources.real, sources.synthetic, splits=["test"])
    return folder


def start_session(page):
    """Moves from the first page to the display check."""
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    at_item(page, 1)


def at_item(page, number, timeout=30000):
    """Waits until an item is on the screen and accepts answers."""
    page.wait_for_function(
        f"""() => document.getElementById("count").textContent.startsWith("{number} /")
            && [...document.querySelectorAll(".state")].every((e) => e.textContent)
            && document.querySelector(".state")
            && !document.querySelector("#overlay.open")""",
        timeout=timeout,
    )
    # The clock starts two frames after the first drawing.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")


def answer_item(page, number, keys):
    """Answers and saves an item, and passes the introduction of the next block if there is one."""
    page.keyboard.type(keys)
    page.keyboard.press("Enter")
    page.wait_for_function(
        f"""() => document.getElementById("count").textContent.startsWith("{number + 1} /")
            || document.querySelector("#overlay.open")"""
    )
    if page.query_selector("#overlay.open") and "Thank you" not in page.inner_text("#overlay"):
        page.keyboard.press("Enter")


def open_first_radiograph(browser, server, **size):
    """Opens anna's link and answers the display check."""
    page = browser(server.links["anna"], **size)
    start_session(page)
    answer_item(page, 1, "")
    at_item(page, 2)
    return page


def test_a_whole_session_by_keyboard_and_its_score(small, browser, tmp_path, capsys):
    study = open_study(shutil.copytree(small, tmp_path / "study"))
    truth = {case.image: case for case in study.cases}
    # anna answers everything correctly; bo calls every radiograph real and AFF.
    typed = {"anna": [], "bo": []}
    with Server(study.folder, "anna", "bo") as server:
        store = AnswerStore(study)
        pages = {r: browser(link, width=640, height=360) for r, link in server.links.items()}
        for page in pages.values():
            start_session(page)
        for number, _ in enumerate(store.items("anna"), 1):
            for reader, page in pages.items():  # both sessions run at the same time
                item = store.items(reader)[number - 1]
                cases = [truth[image] for image in item.images]
                if item.block == "display":
                    keys, answers = "13", {"visible": ["dark", "lines"]}
                elif item.block == "pair":
                    side = 1 + (cases[1].source != "real") if reader == "anna" else 1
                    keys, answers = str(side), {"synthetic": side, "remark": ""}
                else:
                    synthetic, aff = cases[0].source != "real", cases[0].label == "AFF"
                    if reader == "bo":
                        synthetic, aff = False, True
                    answers = {
                        "source": 6 if synthetic else 1,
                        "label": 5 if aff else 2,
                        "realism": 2 if synthetic else 5,
                        "artefacts": ["fracture"] if synthetic else [],
                        "remark": "",
                    }
                    keys = "{source}{label}{realism}".format(**answers) + "2" * synthetic
                typed[reader].append(answers)
                at_item(page, number)
                answer_item(page, number, keys)
        for page in pages.values():
            page.wait_for_selector("text=Thank you")
    for reader, answers in typed.items():
        saved = store.answered(reader)
        assert [answered.answers for answered in saved] == answers
        assert all(answered.final and 0 < answered.milliseconds < 60000 for answered in saved)
    store.close()

    assert main(["readers", "score", str(study.folder)]) == 0
    out = tmp_path / "study.results"
    assert capsys.readouterr().out.strip() == str(out / "results.html")
    with (out / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    value = {(r["measure"], r["reader"], r["source"]): float(r["value"]) for r in rows}
    assert value["accuracy", "anna", "synthetic"] == value["ROC AUC", "anna", "synthetic"] == 1
    assert value["accuracy", "bo", "synthetic"] == value["mean", "bo", "synthetic"] - 4.5 == 0.5
    assert value["accuracy, pairs", "anna", "synthetic"] == 1
    assert value["sensitivity", "bo", "real"] == value["sensitivity", "bo", "synthetic"] == 1
    assert value["specificity", "bo", "real"] == value["specificity", "bo", "synthetic"] == 0
    assert value["difference within pairs", "anna", "real - diffusion"] == 3
    assert value["kappa, AFF or NFF", "anna, bo", "all"] == 0  # bo always gives the same answer
    with (out / "answers.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2 * (5 + 2)
    assert main(["readers", "score", str(study.folder), "--out", str(out)]) == 2
    unknown = ["score", str(study.folder), "--out", str(tmp_path / "x"), "--readers", "carl"]
    assert main(["readers", *unknown]) == 2
    assert "No reader 'carl'" in capsys.readouterr().err and not (tmp_path / "x").exists()


def grey_values(page):
    """Grey values of the canvas."""
    height, width, values = page.evaluate(
        """() => {
            const canvas = document.querySelector("canvas");
            const { width, height } = canvas;
            const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
            return [height, width, new Uint8Array(data.buffer).toHex()];
        }"""
    )
    image = np.frombuffer(bytes.fromhex(values), np.uint8).reshape(height, width, 4)
    assert (image[..., 3] == 255).all() and (image[..., :1] == image[..., :3]).all()
    return image[..., 0].astype(int)


class View:
    """Expected grey values of a canvas, by DICOM's LINEAR_EXACT window and linear interpolation."""

    def __init__(self, pixels, height, width):
        self.pixels, self.size = pixels.astype(float), (height, width)
        self.level, self.window = 65535 / 2, 65535.0
        self.scale = min(height / pixels.shape[0], width / pixels.shape[1])
        self.corner = [
            (n - m / self.scale) / 2 for n, m in zip(pixels.shape, self.size, strict=True)
        ]

    def zoom(self, factor, at):
        for axis in (0, 1):
            self.corner[axis] += at[axis] / self.scale * (1 - 1 / factor)
        self.scale *= factor

    def grey(self):
        positions = [
            (np.arange(m) + 0.5) / self.scale + start
            for m, start in zip(self.size, self.corner, strict=True)
        ]
        rows, columns = np.meshgrid(*positions, indexing="ij")
        inside = (rows >= 0) & (rows <= self.pixels.shape[0])
        inside &= (columns >= 0) & (columns <= self.pixels.shape[1])
        values = scipy.ndimage.map_coordinates(
            self.pixels, [rows - 0.5, columns - 0.5], order=1, mode="nearest"
        )
        y = np.clip((values - self.level) / self.window + 0.5, 0, 1) * 255
        return np.floor(y + 0.5), inside

    def check(self, page, *, inverted=False, tolerance=1):
        image = grey_values(page)
        expected, inside = self.grey()
        if inverted:
            expected = 255 - expected
        core = scipy.ndimage.binary_erosion(inside, iterations=2)
        assert core.mean() > 0.05
        assert np.abs(image - expected)[core].max() <= tolerance
        outside = ~scipy.ndimage.binary_dilation(inside, iterations=2)
        assert (image[outside] == 0).all()


def settle(page):
    """Waits until a moved view is interpolated."""
    page.wait_for_timeout(150)
    page.evaluate("new Promise((d) => requestAnimationFrame(() => requestAnimationFrame(d)))")


def check_pattern(image):
    """Checks the grey steps of SMPTE RP 133: 0, 5, 95 and 100%."""
    scale = min(image.shape[0] / 1000, image.shape[1] / 1600)
    middle = [(m - n * scale) / 2 for m, n in zip(image.shape, (1000, 1600), strict=True)]

    def grey(x, y):
        return image[int(middle[0] + y * scale), int(middle[1] + x * scale)]

    assert [grey(90, 510), grey(220, 510), grey(1380, 510), grey(1500, 510)] == [0, 13, 242, 255]


def test_window_level_zoom_and_pan_on_pixel_values(served, browser):
    study, server = served
    item = items_of(study, "anna")[1]
    pixels = decode(study.image(item.images[0]).read_bytes())
    page = browser(server.links["anna"], width=760, height=400)
    start_session(page)
    check_pattern(grey_values(page))
    answer_item(page, 1, "")
    at_item(page, 2)
    box = page.query_selector("canvas").bounding_box()
    height, width = grey_values(page).shape
    assert (height, width) == (box["height"], box["width"])
    view = View(pixels, height, width)
    view.check(page)

    def drag(dx, dy, button="left"):
        page.mouse.move(box["x"] + 180, box["y"] + 180)
        page.mouse.down(button=button)
        page.mouse.move(box["x"] + 180 + dx, box["y"] + 180 + dy)
        page.mouse.up(button=button)
        settle(page)

    drag(-150, 0)
    drag(20, -60)
    view.window += 65535 * (20 - 150) / width
    view.level += 65535 * -60 / height
    view.check(page)
    state = page.inner_text(".state")
    assert f"W {round(view.window)}" in state and f"L {round(view.level)}" in state
    page.keyboard.press("i")
    settle(page)
    view.check(page, inverted=True)
    page.keyboard.press("i")
    page.keyboard.press("Shift+ArrowDown")
    view.level += 0.02 * 65535
    page.mouse.move(box["x"] + 240, box["y"] + 200)
    page.mouse.wheel(0, -400)
    settle(page)
    view.zoom(np.exp(0.6), (200, 240))
    view.check(page)
    drag(70, -30, "right")
    view.corner[0] += 30 / view.scale
    view.corner[1] -= 70 / view.scale
    view.check(page)
    page.keyboard.press("ArrowLeft")
    settle(page)
    view.corner[1] -= 60 / view.scale
    view.check(page)
    page.keyboard.press("r")
    settle(page)
    view = View(pixels, height, width)
    view.check(page)
    page.keyboard.press("o")
    settle(page)
    assert "100 %" in page.inner_text(".state")
    # One to one: the canvas shows the exact pixels of the radiograph in its middle.
    top, left = (round((m - n) / 2) for m, n in zip((height, width), pixels.shape, strict=True))
    expected = np.floor(255 * (pixels / 65535) + 0.5)
    image = grey_values(page)
    crops = [
        image[top + dy : top + dy + pixels.shape[0], left + dx : left + dx + pixels.shape[1]]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    ]
    assert any(np.array_equal(crop, expected) for crop in crops)


def test_a_small_view_averages_pixels(served, browser):
    study, server = served
    item = items_of(study, "anna")[1]
    pixels = decode(study.image(item.images[0]).read_bytes()).astype(float)
    page = open_first_radiograph(browser, server, width=450, height=96)
    height, width = grey_values(page).shape
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    assert 0.25 < scale < 0.5  # the view uses the level that averages 2 x 2 pixels
    even = np.pad(pixels, [(0, n % 2) for n in pixels.shape], mode="edge")
    halved = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).mean(axis=(1, 3))
    view = View(halved, height, width)
    view.scale = 2 * scale
    sizes = zip(pixels.shape, (height, width), strict=True)
    view.corner = [(n - m / scale) / 4 for n, m in sizes]
    view.check(page)


def answered(study, reader):
    with closing(AnswerStore(study)) as store:
        return store.answered(reader)


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_reload_and_a_killed_browser_lose_nothing(served, browser):
    study, server = served
    page = open_first_radiograph(browser, server)
    page.keyboard.type("42")
    page.keyboard.press("m")
    page.keyboard.type("cortex 1")
    wait_until(lambda: answered(study, "anna")[-1].answers.get("remark") == "cortex 1")
    before = answered(study, "anna")[-1]
    assert not before.final
    page.reload()
    page.wait_for_selector("text=Welcome back")
    page.keyboard.press("Enter")
    if page.query_selector("#overlay.open"):
        page.keyboard.press("Enter")
    at_item(page, 2)
    assert page.input_value("textarea") == "cortex 1"
    checked = page.eval_on_selector_all("input:checked", "all => all.map((e) => e.name + e.value)")
    assert checked == ["source4", "label2"]
    page.context.close()  # as if the browser had crashed
    page = browser(server.links["anna"])
    page.wait_for_selector("text=Welcome back")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    at_item(page, 2)
    page.keyboard.press("Enter")  # refused, since realism is not answered
    assert page.query_selector("fieldset.missing[data-question=realism]")
    answer_item(page, 2, "3")
    at_item(page, 3)
    after = answered(study, "anna")[-1]
    assert after.final and after.milliseconds >= before.milliseconds
    assert after.answers == {
        "source": 4, "label": 2, "realism": 3, "artefacts": [], "remark": "cortex 1"
    }  # fmt: skip


def test_a_restarted_server_receives_the_waiting_answers(served, browser):
    study, server = served
    page = open_first_radiograph(browser, server)
    page.keyboard.type("61")
    wait_until(lambda: answered(study, "anna")[-1].answers.get("label") == 1)
    server.kill()
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=No connection to the server")
    assert page.inner_text("#count").startswith("2 /")  # the page waits until the answers are saved
    with Server(study.folder, port=server.port):
        at_item(page, 3)
        assert page.inner_text("#notice") == ""
        final = [a for a in answered(study, "anna") if a.final]
        assert (final[1].answers["source"], final[1].answers["realism"]) == (6, 5)


def test_the_page_reports_a_full_disk_and_waits(served, browser):
    study, server = served
    page = open_first_radiograph(browser, server)
    # The kernel refuses any growth of the write-ahead log, as with a full disk.
    size = (study.folder / f"{ANSWERS}-wal").stat().st_size
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, limits[1]))
    page.keyboard.type("123")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server cannot write to its disk")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    at_item(page, 3)
    assert answered(study, "anna")[1].answers["label"] == 2


def test_a_second_window_follows_the_first(served, browser):
    study, server = served
    first, second = browser(server.links["anna"]), browser(server.links["anna"])
    start_session(first)
    start_session(second)
    answer_item(first, 1, "1")
    at_item(first, 2)
    second.keyboard.press("Enter")
    second.wait_for_selector("text=Welcome back")
    assert "another window" in second.inner_text("#notice")
    assert answered(study, "anna")[0].answers == {"visible": ["dark"]}


def test_pause_stops_the_clock_and_hides_the_radiograph(served, browser):
    study, server = served
    page = browser(server.links["anna"])
    start_session(page)
    page.keyboard.press("p")
    page.wait_for_selector("text=The clock is stopped")
    wait_until(lambda: answered(study, "anna"))
    before = answered(study, "anna")[0].milliseconds
    centre = page.query_selector("canvas").bounding_box()
    on_top = page.evaluate(
        "([x, y]) => document.elementFromPoint(x, y).closest('#overlay') !== null",
        [centre["x"] + 5, centre["y"] + 5],
    )
    assert on_top
    page.keyboard.type("123")  # keys do not answer questions during a pause
    page.wait_for_timeout(2500)
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=Practice")
    wait_until(lambda: answered(study, "anna")[-1].final)
    saved = answered(study, "anna")[0]
    assert saved.answers == {"visible": []}
    assert before <= saved.milliseconds < before + 2000


def test_an_invalid_link_shows_no_radiograph(server, browser):
    page = browser(server.links["anna"][:-3] + "xyz")
    page.wait_for_selector("text=This link is not valid")
    page.keyboard.press("Enter")
    assert page.query_selector("canvas") is None and page.query_selector("fieldset") is None


def test_both_languages_have_all_texts(server, browser):
    page = browser(server.links["anna"])
    texts = page.evaluate("import('/text.js').then(({ texts }) => JSON.stringify(texts))")
    english, swedish = json.loads(texts)["en"], json.loads(texts)["sv"]

    def shape(value):
        if isinstance(value, dict):
            return {key: shape(inner) for key, inner in value.items()}
        return len(value) if isinstance(value, list) else type(value)

    assert shape(english) == shape(swedish)
    for text in (english, swedish):
        for question in (question for block in QUESTIONS.values() for question in block):
            assert set(text["questions"][question.name].get("options", {})) == set(question.options)
    page.click("#language")
    assert re.search("Granskningsstudie", page.inner_text("#overlay"))
    start_session(page)
    assert "Vad kan du se?" in page.inner_text("form")
