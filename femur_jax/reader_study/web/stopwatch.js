/** Measures the reading time of an item. */
export class Stopwatch {
  #before = 0;
  #since = null;

  /** Stops the watch and sets its time. */
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
