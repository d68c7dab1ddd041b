// Requests to the server. Requests that fail because of the connection or the disk are repeated.

export const authorization = { Authorization: `Bearer ${location.hash.slice(1)}` };
const RETRY_MS = 1000;

/** Error for a request that the server refused; `status` is the HTTP status. */
export class Refused extends Error {
  constructor(status) {
    super(`refused: ${status}`);
    this.status = status;
  }
}

const delay = () => new Promise((resolve) => setTimeout(resolve, RETRY_MS));
const isTemporary = (status) => status === 0 || status >= 500;

/** Loads the reader's session. */
export async function session() {
  const response = await fetch("/api/session", { headers: authorization });
  if (!response.ok) throw new Refused(response.status);
  return response.json();
}

/** Sends answers one after another. A later draft of an item replaces an earlier one. */
export class Saver {
  #waiting = null;
  #running = false;

  /** @param notice  function that is called with a problem, and with null when all is saved */
  constructor(notice) {
    this.notice = notice;
  }

  /** Resolves when the answers are on the server's disk; rejects with Refused if it refuses them. */
  save(number, answers, milliseconds, final) {
    this.#waiting?.resolve();
    return new Promise((resolve, reject) => {
      const body = JSON.stringify({ answers, milliseconds: Math.round(milliseconds), final });
      this.#waiting = { number, body, resolve, reject };
      this.#run();
    });
  }

  async #run() {
    if (this.#running) return;
    this.#running = true;
    while (this.#waiting) {
      const job = this.#waiting;
      const status = await this.#send(job);
      if (isTemporary(status)) {
        this.notice(status === 507 ? "full" : "offline");
        await delay();
        continue; // with the newer draft, if there is one
      }
      if (this.#waiting === job) this.#waiting = null;
      this.notice(null);
      if (status === 204) job.resolve();
      else job.reject(new Refused(status));
    }
    this.#running = false;
  }

  async #send({ number, body }) {
    try {
      const options = { method: "PUT", headers: authorization, body, keepalive: true };
      return (await fetch(`/api/items/${number}`, options)).status;
    } catch {
      return 0;
    }
  }
}

/** Fetches radiographs in the background and keeps them until they are forgotten. */
export class Loader {
  #worker = new Worker("decoder.js", { type: "module" });
  #jobs = new Map();

  constructor(notice) {
    this.notice = notice;
    this.#worker.onmessage = ({ data }) => this.#done(data);
  }

  /** Resolves to the levels of a radiograph; rejects with Refused if the server refuses it. */
  get(number, side) {
    const key = `${number}/images/${side}`;
    if (!this.#jobs.has(key)) {
      const job = {};
      job.promise = new Promise((resolve, reject) => Object.assign(job, { resolve, reject }));
      job.promise.catch(() => {}); // nobody may be waiting for a prefetched radiograph
      this.#jobs.set(key, job);
      this.#ask(key);
    }
    return this.#jobs.get(key).promise;
  }

  /** Forgets the radiographs of all items before this one. */
  forgetBefore(number) {
    for (const key of this.#jobs.keys()) {
      if (parseInt(key, 10) < number) this.#jobs.delete(key);
    }
  }

  #ask(key) {
    this.#worker.postMessage({ key, url: `/api/items/${key}`, headers: authorization });
  }

  async #done({ key, levels, status }) {
    const job = this.#jobs.get(key);
    if (!job) return;
    if (levels) {
      this.notice(null);
      job.resolve(levels);
    } else if (isTemporary(status)) {
      this.notice("offline");
      await delay();
      this.#ask(key);
    } else {
      this.#jobs.delete(key);
      job.reject(new Refused(status));
    }
  }
}
