// Keeps the tasks in hand while somebody works at them, and lets them go when nobody does.

import { post } from "./outbox.js";

const seconds = () => performance.now() / 1000;

export class Lease extends EventTarget {
  // Events: "away" when the time of a task ran out, with its number as `detail`.
  constructor() {
    super();
    this.ends = new Map(); // assignment → when, in seconds of this page
    this.lengths = new Map();
    this.active = seconds();
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "scroll", "input"]) {
      addEventListener(kind, () => (this.active = seconds()), { passive: true, capture: true });
    }
    document.addEventListener("visibilitychange", () => this.tick());
  }

  hold(assignment, length) {
    this.ends.set(assignment, seconds() + length);
    this.lengths.set(assignment, length);
    clearInterval(this.timer);
    const shortest = Math.min(...this.lengths.values());
    this.timer = setInterval(() => this.tick(), Math.max(250, Math.min(shortest * 250, 60_000)));
  }

  release(assignment) {
    this.ends.delete(assignment);
    this.lengths.delete(assignment);
  }

  holds(assignment) {
    return this.ends.has(assignment);
  }

  tick() {
    const now = seconds();
    for (const [assignment, end] of this.ends) {
      const length = this.lengths.get(assignment);
      const working = document.visibilityState === "visible" && now - this.active < Math.min(length / 2, 600);
      if (now >= end) this.away(assignment);
      else if (working && end - now < 0.75 * length) this.renew(assignment);
    }
  }

  away(assignment) {
    this.dispatchEvent(new CustomEvent("away", { detail: assignment }));
  }

  /** Renews a lease; what the server answered. */
  async renew(assignment) {
    const answer = await post(`/api/assignments/${assignment}/heartbeat`, "");
    if (!this.holds(assignment)) return answer; // let go in the meantime
    if (answer.ok) this.hold(assignment, answer.said.lease_seconds);
    else if (answer.status === 404 || answer.status === 409) this.away(assignment); // the computer slept, and others came
    return answer;
  }
}
