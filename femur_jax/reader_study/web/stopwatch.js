/** Counts the time that a radiograph is looked at. */
export class Stopwatch {
  #before = 0;
  #since = null;

  /** Stops, at so much. */
  set(milliseconds) {
    this.#before = milliseconds;
    this.#since = null;
  }

  start() {
    this.#since ??= performance.now();
  }

  stop() {
    this.set(this.milliseconds);
  }

  get milliseconds() {
    return this.#before + (this.#since === null ? 0 : performance.now() - this.#since);
  }
}
