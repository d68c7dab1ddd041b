// Form with the questions of a block. A digit key answers the current question and moves to the next.

export class Form {
  #questions = [];
  #fieldsets = [];
  #current = 0;

  /**
   * @param element  the <form> element
   * @param changed  function that is called after each change of an answer
   * @param next     function that the submit button calls
   */
  constructor(element, changed, next) {
    this.element = element;
    this.changed = changed;
    element.addEventListener("submit", (event) => {
      event.preventDefault();
      next();
    });
    element.addEventListener("input", (event) => {
      event.target.closest("fieldset").classList.remove("missing");
      changed();
    });
    element.addEventListener("focusin", (event) => {
      const fieldset = event.target.closest("fieldset");
      if (fieldset) this.#point(this.#fieldsets.indexOf(fieldset));
    });
  }

  /** Shows questions with their answers so far. */
  ask(questions, text, answers) {
    this.#questions = questions;
    this.#fieldsets = questions.map((question) => fieldsetOf(question, text, answers[question.name]));
    const button = document.createElement("button");
    button.id = "next";
    button.append(text.next, " ", key("Enter"));
    this.element.replaceChildren(...this.#fieldsets, button);
    const open = questions.findIndex((q) => q.kind === "scale" && !(q.name in answers));
    this.#point(open < 0 ? 0 : open);
  }

  /** Returns the answers by question: a step from 1, a list of ticked boxes, or text. */
  get answers() {
    const answers = {};
    this.#questions.forEach(({ name, kind }, n) => {
      const inputs = [...this.#fieldsets[n].querySelectorAll("input:checked")];
      if (kind === "text") answers[name] = wellFormed(this.#fieldsets[n].querySelector("textarea").value);
      else if (kind === "ticks") answers[name] = inputs.map((input) => input.value);
      else if (inputs.length) answers[name] = Number(inputs[0].value);
    });
    return answers;
  }

  /** Whether every scale is answered. Marks missing answers and moves to the first of them. */
  complete() {
    const answers = this.answers;
    const missing = this.#questions.map((q) => q.kind === "scale" && !(q.name in answers));
    missing.forEach((isMissing, n) => this.#fieldsets[n].classList.toggle("missing", isMissing));
    if (missing.includes(true)) this.#point(missing.indexOf(true));
    return !missing.includes(true);
  }

  /** Answers the current question with the option of a digit. */
  press(digit) {
    const { kind } = this.#questions[this.#current];
    const input = this.#fieldsets[this.#current].querySelectorAll("input")[digit - 1];
    if (!input) return;
    input.click();
    if (kind === "scale" && this.#current + 1 < this.#questions.length) this.step(1);
  }

  /** Moves by a number of questions, but not into the remark. */
  step(by) {
    const last = this.#questions.findLastIndex((question) => question.kind !== "text");
    document.activeElement.blur();
    this.#point(Math.min(last, Math.max(0, this.#current + by)));
  }

  /** Moves the cursor into the remark. */
  write() {
    this.element.querySelector("textarea")?.focus();
  }

  #point(n) {
    this.#current = n;
    this.#fieldsets.forEach((fieldset, m) => fieldset.classList.toggle("current", m === n));
    this.#fieldsets[n]?.scrollIntoView({ block: "nearest" });
  }
}

/** Replaces lone surrogates, which the server refuses; old browsers cannot find them. */
const wellFormed = (text) => text.toWellFormed?.() ?? text;

/** Returns a <kbd> element with the name of a key. */
export function key(name) {
  const element = document.createElement("kbd");
  element.textContent = name;
  return element;
}

function fieldsetOf({ name, kind, options }, text, answer) {
  const { title, groups, options: labels } = text.questions[name];
  const fieldset = document.createElement("fieldset");
  fieldset.dataset.question = name;
  const legend = document.createElement("legend");
  legend.textContent = title;
  fieldset.append(legend);
  if (kind === "text") {
    legend.append(" ", key("M"));
    const area = document.createElement("textarea");
    area.maxLength = 2000;
    area.value = answer ?? "";
    area.setAttribute("aria-label", title);
    fieldset.append(area);
    return fieldset;
  }
  if (groups) {
    const line = document.createElement("div");
    line.className = "groups";
    line.append(...groups.map((group) => Object.assign(document.createElement("span"), { textContent: group })));
    fieldset.append(line);
  }
  const list = document.createElement("div");
  list.className = kind === "scale" ? "scale" : "ticks";
  list.classList.toggle("split", Boolean(groups) && options.length === 6);
  options.forEach((option, n) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    input.name = name;
    input.type = kind === "scale" ? "radio" : "checkbox";
    input.value = kind === "scale" ? n + 1 : option;
    input.checked = kind === "scale" ? answer === n + 1 : Boolean(answer?.includes(option));
    if (kind === "scale") {
      const digit = document.createElement("b");
      digit.textContent = n + 1;
      label.append(input, digit, labels[option]);
    } else label.append(key(n + 1), input, labels[option]);
    list.append(label);
  });
  fieldset.append(list);
  return fieldset;
}
