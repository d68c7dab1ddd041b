// Runs a reader's session, from the first page to the last.
import { Form, key } from "./form.js";
import { pyramid } from "./picture.js";
import { testPattern } from "./pattern.js";
import { Loader, Refused, Saver, session } from "./server.js";
import { Stopwatch } from "./stopwatch.js";
import { texts } from "./text.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const overlay = $("overlay");

let language = localStorage.getItem("language")
  ?? (navigator.language.startsWith("sv") ? "sv" : "en");
let text = texts[language];
let state = null; // session as the server sent it
let number = 0; // number of the item that is shown
let viewers = [];
let problem = null;
let shown = null; // the overlay's text, and the action that follows it
let ready = false; // whether the item's radiographs are on the screen
let saving = false;

const watch = new Stopwatch();
const saver = new Saver(notice);
const loader = new Loader(notice);
const form = new Form($("form"), saveDraft, next);

/** Shows a problem in the header; null removes it. */
function notice(name) {
  problem = name;
  $("notice").textContent = name ? text.notices[name] : "";
}

/** Covers the page and stops the clock. The reader continues with `then`, if it is given. */
function cover(paragraphs, then) {
  watch.stop();
  shown = { paragraphs, then };
  overlay.querySelector("h1").textContent = paragraphs().title;
  const lines = paragraphs().text.map((line) => {
    const p = document.createElement("p");
    p.textContent = line;
    return p;
  });
  overlay.querySelector(".text").replaceChildren(...lines, ...(then ? [keyTable()] : []));
  const button = overlay.querySelector("button");
  button.hidden = !then;
  button.replaceChildren(text.continue, " ", key("Enter"));
  overlay.classList.add("open");
}

function uncover() {
  const { then } = shown;
  if (!then) return;
  overlay.classList.remove("open");
  shown = null;
  then();
}

function keyTable() {
  const table = document.createElement("table");
  for (const [name, action] of text.keys) {
    const row = table.insertRow();
    row.insertCell().append(key(name));
    row.insertCell().textContent = action;
  }
  return table;
}

const startClock = () => ready && watch.start();

function pause() {
  if (shown || !state) return;
  saveDraft();
  cover(() => text.paused, startClock);
}

function translate() {
  document.documentElement.lang = language;
  document.title = text.welcome.title;
  for (const id of ["language", "pause", "help"]) $(id).textContent = text[id];
  notice(problem);
  if (state) {
    label();
    if (number < state.blocks.length) ask(form.answers);
  }
  if (shown) cover(shown.paragraphs, shown.then);
}

function label() {
  const total = state.blocks.length;
  $("block").textContent = text.blocks[state.blocks[Math.min(number, total - 1)]];
  $("count").textContent = `${Math.min(number + 1, total)} / ${total}`;
  $("progress").max = total;
  $("progress").value = number;
  viewers.forEach((viewer, n) => {
    viewer.side.textContent = viewers.length > 1 ? text.sides[n] : "";
  });
}

function ask(answers) {
  form.ask(state.questions[state.blocks[number]], text, answers);
  markChoice();
}

/** Marks the radiograph that the reader chose. */
function markChoice() {
  const { synthetic } = form.answers;
  viewers.forEach((viewer, n) => viewer.element.classList.toggle("chosen", synthetic === n + 1));
}

/** Loads the session, and starts or resumes it. */
async function load() {
  try {
    state = await session();
  } catch (error) {
    state = null;
    const refused = error instanceof Refused && error.status === 403;
    cover(() => (refused ? text.invalid : text.failed));
    return;
  }
  number = state.next;
  label();
  if (number === state.blocks.length) finish();
  else cover(() => text[number === 0 ? welcome() : "resumed"], open);
}

const welcome = () => (state.blocks.includes("selection") ? "selecting" : "welcome");

function finish() {
  viewers.forEach((viewer) => viewer.remove());
  viewers = [];
  label();
  cover(() => text.done);
}

/** Opens the current item, after an introduction if a new block starts. */
function open() {
  const block = state.blocks[number];
  if (block === state.blocks[number - 1]) showItem();
  else cover(() => ({ title: text.blocks[block], text: text.intros[block] }), showItem);
}

async function showItem() {
  const block = state.blocks[number], item = number;
  ready = false;
  viewers.forEach((viewer) => viewer.remove());
  viewers = Array.from({ length: block === "pair" ? 2 : 1 }, () => {
    const viewer = new Viewer($("pictures"));
    viewer.side = document.createElement("div");
    viewer.side.className = "side";
    viewer.element.append(viewer.side);
    return viewer;
  });
  const draft = state.next === number ? state.draft : { answers: {}, milliseconds: 0 };
  label();
  ask(draft.answers);
  watch.set(draft.milliseconds);
  loader.forgetBefore(number);
  try {
    const pictures = block === "display"
      ? [pyramid(testPattern())]
      : await Promise.all(viewers.map((_, side) => loader.get(number, side)));
    if (item !== number) return;
    await Promise.all(viewers.map((viewer, n) => viewer.show(pictures[n])));
  } catch (error) {
    outOfTurn(error);
    return;
  }
  ready = true;
  if (!shown) watch.start();
  prefetch(number + 1);
}

function prefetch(item) {
  const block = state.blocks[item];
  if (block && block !== "display") loader.get(item, 0);
  if (block === "pair") loader.get(item, 1);
}

function saveDraft() {
  if (!ready || saving) return;
  markChoice();
  saver.save(number, form.answers, watch.milliseconds, false).catch(outOfTurn);
}

async function next() {
  if (!ready || saving || !form.complete()) return;
  saving = true;
  watch.stop();
  try {
    await saver.save(number, form.answers, watch.milliseconds, true);
  } catch (error) {
    outOfTurn(error);
    return;
  } finally {
    saving = false;
  }
  ready = false;
  number += 1;
  if (number === state.blocks.length) finish();
  else open();
}

/** Follows the session if it was continued in another window; otherwise shows the error. */
function outOfTurn(error) {
  ready = false;
  if (error instanceof Refused && [404, 409].includes(error.status)) {
    notice("moved");
    load();
  } else cover(() => (error.status === 403 ? text.invalid : text.failed));
}

const all = (change) => viewers.forEach(change);
const PAN = 60, WINDOW = 0.02, ZOOM = 1.25;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  "+": () => all((viewer) => viewer.zoom(ZOOM)),
  "-": () => all((viewer) => viewer.zoom(1 / ZOOM)),
  f: () => all((viewer) => viewer.fit()),
  o: () => all((viewer) => viewer.oneToOne()),
  i: () => all((viewer) => viewer.invert()),
  r: () => all((viewer) => viewer.reset()),
  m: () => form.write(),
  p: pause,
  h: help,
  Enter: next,
};

function help() {
  if (!shown && state) cover(() => ({ title: text.help, text: [] }), startClock);
}

document.addEventListener("keydown", (event) => {
  const { target, shiftKey } = event;
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (shown) {
    if (event.key === "Enter" && !event.repeat && target.tagName !== "BUTTON") uncover();
    return;
  }
  if (target.tagName === "TEXTAREA") {
    if (event.key === "Escape") target.blur();
    return;
  }
  if (event.key === "Enter" && (event.repeat || target.tagName === "BUTTON")) return;
  const arrow = ARROWS[event.key];
  const action = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (arrow && shiftKey) all((viewer) => viewer.changeWindow(arrow[1] * WINDOW, arrow[0] * WINDOW));
  else if (arrow) all((viewer) => viewer.pan(-arrow[0] * PAN, -arrow[1] * PAN));
  else if (/^[1-9]$/.test(event.key)) form.press(Number(event.key));
  else if (event.key === "Tab") form.step(shiftKey ? -1 : 1);
  else if (action) action();
  else return;
  event.preventDefault();
});

overlay.querySelector("button").addEventListener("click", uncover);
$("pause").addEventListener("click", pause);
$("help").addEventListener("click", help);
$("language").addEventListener("click", () => {
  language = language === "en" ? "sv" : "en";
  localStorage.setItem("language", language);
  text = texts[language];
  translate();
});
for (const button of document.querySelectorAll("header button")) {
  button.addEventListener("click", () => button.blur()); // keeps Enter for saving answers
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden && ready) pause();
});

translate();
load();
