// Answers on their way. Each is kept until the server says that it has it, and sent again, under the same submit key,
// for as long as that takes: the server stores it once.

import { csrf } from "./app.js";
import { shelf } from "./keep.js";

const FIRST_WAIT = 500; // milliseconds
const LONGEST_WAIT = 30_000;

export class Outbox extends EventTarget {
  // Events: "change"; "stored" and "refused" with the entry and what the server said as `detail`.
  constructor(user) {
    super();
    this.shelf = shelf("outbox", user);
    this.state = "idle"; // "sending", "offline" (or the server is away), "signed-out"
    this.wait = FIRST_WAIT;
    this.running = null;
    addEventListener("online", () => this.flush());
    addEventListener("storage", () => this.changed());
  }

  entries() {
    return this.shelf.all().sort((a, b) => a.at - b.at);
  }

  has(assignment) {
    return this.entries().some((entry) => entry.assignment === assignment);
  }

  add(entry) {
    const { key, ...about } = entry;
    const kept = this.shelf.set(key, { ...about, at: Date.now() });
    this.changed();
    return kept;
  }

  /** Takes an answer out again; false when it is there no longer, or was sent and may have arrived. */
  take(assignment) {
    const found = this.entries().find((entry) => entry.assignment === assignment);
    if (!found || found.tried) return false;
    this.shelf.delete(found.key);
    this.changed();
    return true;
  }

  /** Sends what is there; resolves when all is sent or sending has to wait. */
  flush() {
    clearTimeout(this.timer);
    this.running ??= this.send().finally(() => {
      this.running = null;
      this.changed();
    });
    return this.running;
  }

  async send() {
    await null; // `running` is set before anybody hears of a change
    for (let entry; (entry = this.entries()[0]); ) {
      const { key, ...about } = entry;
      this.shelf.set(key, { ...about, tried: true });
      this.to("sending");
      const answer = await post(entry.url, entry.body);
      if (answer.status === 401 || answer.status === 403) return this.to("signed-out");
      if (!answer.status || answer.status === 429 || answer.status >= 500) return this.later();
      this.wait = FIRST_WAIT;
      this.shelf.delete(key);
      this.dispatchEvent(new CustomEvent(answer.ok ? "stored" : "refused", { detail: { entry, answer } }));
    }
    this.to("idle");
  }

  later() {
    this.to("offline");
    this.timer = setTimeout(() => this.flush(), this.wait);
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
  }

  to(state) {
    this.state = state;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** A POST that never throws: `status` is 0 when there was no answer. */
export async function post(url, body) {
  return ask(url, {
    method: "POST",
    body,
    headers: { "content-type": "application/x-www-form-urlencoded", "x-csrf-token": csrf() },
    keepalive: body.length < 60_000,
  });
}

export async function ask(url, options = {}) {
  try {
    const answer = await fetch(url, { ...options, redirect: "error" });
    const said = await answer.json().catch(() => ({}));
    return { status: answer.status, ok: answer.ok, said };
  } catch {
    return { status: 0, ok: false, said: {} };
  }
}
