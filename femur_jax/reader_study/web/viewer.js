// Shows one radiograph on a canvas, with window and level, zoom and pan.
import { resample, windowTable } from "./render.js";

const FULL = 65535;
const LEAST_WINDOW = 64;
const LARGEST_SCALE = 16;
const REST_MS = 100; // time after the last move until the view is interpolated

export class Viewer {
  #levels = null;
  #grey = new Uint16Array(0);
  #moved = true;
  #due = false;

  /** Appends the viewer to `parent`. */
  constructor(parent) {
    this.element = document.createElement("div");
    this.element.className = "viewer";
    this.canvas = document.createElement("canvas");
    this.state = document.createElement("div");
    this.state.className = "state";
    this.element.append(this.canvas, this.state);
    parent.append(this.element);
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.reset();
    this.#listen();
    // Sizes are in physical screen pixels, so that one to one holds with any display scaling.
    this.sizes = new ResizeObserver(([{ devicePixelContentBoxSize: [size] }]) => {
      this.#resize(size.inlineSize, size.blockSize);
    });
    this.sizes.observe(this.canvas, { box: "device-pixel-content-box" });
  }

  remove() {
    this.sizes.disconnect();
    clearTimeout(this.rest);
    this.element.remove();
    this.#levels = null;
  }

  /** Shows a pyramid, fitted and with the full window. Resolves when it is on the screen. */
  show(levels) {
    this.#levels = levels;
    this.reset();
    return new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
  }

  reset() {
    this.level = FULL / 2;
    this.width = FULL;
    this.inverted = false;
    this.fit();
  }

  invert() {
    this.inverted = !this.inverted;
    this.#redraw();
  }

  /** Changes level and width by shares of the full range. A higher level darkens. */
  changeWindow(level, width) {
    this.level = Math.min(FULL, Math.max(0, this.level + level * FULL));
    this.width = Math.min(2 * FULL, Math.max(LEAST_WINDOW, this.width + width * FULL));
    this.#redraw();
  }

  /** Fits the whole radiograph into the canvas. */
  fit() {
    this.fitted = true;
    if (!this.#levels) return;
    const { width, height } = this.#levels[0];
    this.scale = Math.min(this.canvas.width / width, this.canvas.height / height);
    this.x = (width - this.canvas.width / this.scale) / 2;
    this.y = (height - this.canvas.height / this.scale) / 2;
    this.#redraw(true);
  }

  /** Shows one image pixel per screen pixel, keeping the point at a canvas position in place. */
  oneToOne(at) {
    this.#zoomTo(1, at);
    this.x = Math.round(this.x);
    this.y = Math.round(this.y);
  }

  /** Zooms by a factor, keeping the point at a canvas position (the middle by default) in place. */
  zoom(factor, at) {
    this.#zoomTo(this.scale * factor, at);
  }

  #zoomTo(scale, at = [this.canvas.width / 2, this.canvas.height / 2]) {
    if (!this.#levels) return;
    const { width, height } = this.#levels[0];
    const fitting = Math.min(this.canvas.width / width, this.canvas.height / height);
    const next = Math.min(LARGEST_SCALE, Math.max(Math.min(1, fitting / 2), scale));
    this.x += at[0] / this.scale - at[0] / next;
    this.y += at[1] / this.scale - at[1] / next;
    this.scale = next;
    this.#move();
  }

  /** Moves the radiograph by canvas pixels. The middle of the canvas stays within the radiograph. */
  pan(dx, dy) {
    if (!this.#levels) return;
    const { width, height } = this.#levels[0];
    const half = [this.canvas.width / 2 / this.scale, this.canvas.height / 2 / this.scale];
    this.x = Math.min(width, Math.max(0, this.x + half[0] - dx / this.scale)) - half[0];
    this.y = Math.min(height, Math.max(0, this.y + half[1] - dy / this.scale)) - half[1];
    this.#move();
  }

  /** Draws nearest pixels while the view moves, and interpolates when it rests. */
  #move() {
    this.fitted = false;
    this.moving = true;
    this.#redraw(true);
    clearTimeout(this.rest);
    this.rest = setTimeout(() => {
      this.moving = false;
      this.#redraw(true);
    }, REST_MS);
  }

  #listen() {
    const ratio = () => this.canvas.width / this.canvas.clientWidth;
    this.canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.panning = event.button !== 0 || event.shiftKey;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (!this.canvas.hasPointerCapture(event.pointerId)) return;
      if (this.panning) this.pan(event.movementX * ratio(), event.movementY * ratio());
      else {
        const { clientWidth, clientHeight } = this.canvas;
        this.changeWindow(event.movementY / clientHeight, event.movementX / clientWidth);
      }
    });
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
      const at = [event.offsetX * ratio(), event.offsetY * ratio()];
      this.zoom(Math.exp(-event.deltaY * lines * 0.0015), at);
    }, { passive: false });
  }

  #resize(width, height) {
    this.canvas.width = Math.max(1, width);
    this.canvas.height = Math.max(1, height);
    this.#grey = new Uint16Array(this.canvas.width * this.canvas.height);
    this.screen = this.context.createImageData(this.canvas.width, this.canvas.height);
    if (this.fitted) this.fit();
    else this.#redraw(true);
  }

  #redraw(moved = false) {
    this.#moved ||= moved;
    if (this.#due || !this.#levels) return;
    this.#due = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#due = false;
    if (!this.#levels || !this.screen) return;
    const { width, height } = this.canvas;
    const screen = new Uint32Array(this.screen.data.buffer);
    if (this.#moved) {
      const { x, y, scale } = this;
      const view = { x, y, scale, width, height };
      this.box = resample(this.#levels, view, this.#grey, !this.moving);
      screen.fill(0xff000000);
      this.#moved = false;
    }
    const table = windowTable(this.level, this.width, this.inverted);
    const { left, top, right, bottom } = this.box;
    for (let row = top; row < bottom; row++) {
      for (let i = row * width + left, end = row * width + right; i < end; i++) {
        screen[i] = table[this.#grey[i]];
      }
    }
    this.context.putImageData(this.screen, 0, 0);
    const percent = Math.round(100 * this.scale);
    this.state.textContent =
      `${percent} %   W ${Math.round(this.width)}   L ${Math.round(this.level)}`;
  }
}
