// One task's form: what is chosen, what is missing, what the keys do to it. It keeps a draft of every change.

import { showDiff } from "./diff.js";
import { append, eraseLast, move, orderOf, say } from "./ranking.js";

const SOON = 150; // milliseconds after a change until it is kept

export class TaskForm {
  constructor(node, { drafts, keys, announce }) {
    Object.assign(this, { node, drafts, keys, announce });
    this.kind = node.dataset.kind;
    this.assignment = Number(node.dataset.assignment);
    this.letters = [...node.querySelectorAll(".response")].map((response) => response.dataset.letter);
    this.equal = false; // the next response typed ranks with the last one
    this.closing = new AbortController();
    this.touched = false;
    this.byKey = false; // an aside was opened by its key
    this.spent = 0; // milliseconds of looking at it
    this.since = document.visibilityState === "visible" ? performance.now() : null;
    for (const part of node.querySelectorAll(".script")) part.hidden = false;
    for (const button of node.querySelectorAll("[data-move]")) button.disabled = false;
    this.restore();
    const { signal } = this.closing;
    node.addEventListener("input", () => this.changed(), { signal });
    node.addEventListener("change", () => this.changed(), { signal });
    node.addEventListener("click", (event) => this.click(event), { signal });
    document.addEventListener("visibilitychange", () => this.look(), { signal });
    this.update();
  }

  get submitKey() {
    return this.node.elements.submit_key.value;
  }

  // ---- drafts

  restore() {
    const draft = this.drafts.get(this.assignment);
    if (!draft) return;
    this.spent = draft.spent ?? 0;
    const said = new Map(draft.fields);
    for (const field of this.fields()) {
      if (field.type === "radio") field.checked = said.get(field.name) === field.value;
      else if (field.type === "checkbox") field.checked = said.has(field.name);
      else if (said.has(field.name)) field.value = said.get(field.name);
    }
    for (const aside of this.node.querySelectorAll("details.flag")) aside.open = Boolean(said.get("flag"));
  }

  fields() {
    return [...this.node.elements].filter((field) => field.name && field.matches('input:not([type="hidden"]), select, textarea'));
  }

  keep() {
    clearTimeout(this.timer);
    if (this.closing.signal.aborted || !this.touched) return;
    const names = new Set(this.fields().map((field) => field.name));
    const fields = [...new FormData(this.node)].filter(([name]) => names.has(name));
    this.drafts.set(this.assignment, { fields, spent: this.looked(), at: Date.now() });
  }

  close() {
    this.keep();
    this.closing.abort();
  }

  changed() {
    this.touched = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.keep(), SOON);
    this.update();
  }

  look() {
    this.spent = this.looked();
    this.since = document.visibilityState === "visible" ? performance.now() : null;
  }

  looked() {
    return this.spent + (this.since === null ? 0 : performance.now() - this.since);
  }

  // ---- what it says

  body(skip = "") {
    this.node.elements.seconds.value = (this.looked() / 1000).toFixed(1);
    const said = new URLSearchParams([...new FormData(this.node)]);
    said.delete("csrf"); // the session may be another by the time this is sent
    if (skip) said.set("skip", skip);
    return said.toString();
  }

  value(name) {
    return new FormData(this.node).get(name) ?? "";
  }

  /** What has to be said yet, as a sentence; "" for nothing. */
  missing() {
    if (this.kind === "pair" && !this.value("choice")) return "Choose an answer first.";
    if (this.kind === "ranking" && !this.value("all_bad")) {
      const ranked = orderOf(this.node).flat().length;
      if (ranked < 2) return "Rank two or more of the answers, or say that none is acceptable.";
      const tied = orderOf(this.node).length < ranked;
      if (tied && this.node.dataset.ties === "0") return "Two answers have the same place. Decide which is better.";
    }
    const unrated = this.unrated();
    if (unrated.length && (this.kind === "rating" || unrated.length < this.scales().length)) {
      const [{ dataset, firstElementChild: legend }] = unrated;
      return `Rate response ${dataset.rate[0]} by “${legend.firstChild.textContent.trim()}” too.`;
    }
    if (this.kind === "edit" && !this.value("correction").trim()) return "Write your version.";
    if (this.node.dataset.rationale === "required" && !this.value("rationale").trim()) return "Say why.";
    return "";
  }

  complain(wrong) {
    const notice = this.node.querySelector(".wrong");
    notice.hidden = false;
    notice.textContent = wrong;
    notice.scrollIntoView({ block: "nearest" });
  }

  // ---- what the keys do

  act(action) {
    if (/^\d$/.test(action)) return this.number(action);
    if (/^[A-I]$/.test(action)) return this.letter(action);
    const deeds = {
      tie: () => this.choose("tie"),
      all_bad: () => (this.kind === "ranking" ? this.toggle("all_bad") : this.choose("bad")),
      equal: () => this.together(),
      erase: () => this.kind === "ranking" && (eraseLast(this.node), true),
      rate: () => this.focus(this.unrated()[0] ?? this.scales()[0]),
      rationale: () => this.focus(this.node.elements.rationale),
      correction: () => this.focus(this.node.elements.correction),
      flag: () => this.open(".flag"),
      skip: () => this.open(".skipping"),
    };
    return deeds[action]?.() ?? false;
  }

  letter(letter) {
    if (!this.letters.includes(letter)) return false;
    if (this.kind === "pair") return this.choose(letter);
    if (this.kind === "rating") return this.focus(this.scales().find((scale) => scale.dataset.rate.startsWith(letter)));
    if (this.kind !== "ranking") return false;
    const { equal } = this;
    this.equal = false;
    append(this.node, letter, equal); // the order is a live region of its own
    return true;
  }

  choose(value) {
    const radio = [...this.node.querySelectorAll('input[name="choice"]')].find((one) => one.value === value);
    return this.check(radio);
  }

  toggle(name) {
    const box = this.node.elements[name];
    if (!box) return false;
    box.click();
    this.announce(box.checked ? "None is acceptable: ticked." : "None is acceptable: not ticked.");
    return true;
  }

  together() {
    if (this.kind !== "ranking" || this.node.dataset.ties === "0") return false;
    this.equal = orderOf(this.node).length > 0;
    this.update();
    return true;
  }

  number(digit) {
    const reasons = this.node.querySelectorAll("details.skipping[open] button");
    if (reasons.length) {
      reasons[digit - 1]?.click();
      return true;
    }
    const focused = document.activeElement.closest("[data-rate], .flag fieldset");
    const group = focused ?? (this.kind === "rating" ? this.unrated()[0] : this.node.querySelector(".strength"));
    if (!group) return false;
    if (group.closest(".flag")) return this.check(group.querySelectorAll("input")[digit]);
    const done = this.check([...group.querySelectorAll("input")].find((one) => one.value === digit));
    if (done && group.dataset.rate) this.focus(this.unrated()[0]);
    return done;
  }

  check(radio) {
    if (!radio) return false;
    radio.checked = true;
    if (document.activeElement.name === radio.name) radio.focus(); // where Tab goes on from
    radio.dispatchEvent(new Event("change", { bubbles: true }));
    this.announce(`${radio.nextElementSibling.firstChild.textContent.trim()}: chosen`);
    return true;
  }

  focus(place) {
    const inside = place?.matches("fieldset") && (place.querySelector("input:checked") ?? place.querySelector("input"));
    const field = inside || place;
    if (!field?.focus) return false;
    field.focus();
    field.scrollIntoView({ block: "nearest" });
    return true;
  }

  open(which) {
    const aside = this.node.querySelector(which);
    this.byKey = true;
    aside.open = true;
    return this.focus(aside.querySelector("fieldset, .row > button"));
  }

  closeAsides() {
    const open = this.node.querySelector("details[open]");
    if (open) {
      open.open = false;
      // Whoever came by a key goes on with Enter, which on the summary would open it again.
      (this.byKey ? this.node.querySelector("h1") : open.querySelector("summary")).focus();
      this.byKey = false;
    }
    return Boolean(open);
  }

  click(event) {
    const button = event.target.closest("[data-move]");
    if (!button) return;
    move(this.node, button.closest(".response").dataset.letter, button.dataset.move === "up" ? -1 : 1);
  }

  // ---- what it shows

  scales() {
    return [...this.node.querySelectorAll("[data-rate]")];
  }

  unrated() {
    return this.scales().filter((scale) => !scale.querySelector("input:checked"));
  }

  said() {
    const left = this.letters.filter((letter) => !orderOf(this.node).flat().includes(letter));
    const order = say(orderOf(this.node));
    return order ? `${order}${left.length ? ` · not ranked: ${left.join(", ")}` : ""}` : "";
  }

  update() {
    const order = this.node.querySelector(".order");
    if (this.kind === "ranking") {
      const how = `Type ${this.letters.map((letter) => this.keys[letter] ?? letter).join(", ")} from best to worst`;
      order.textContent = (this.said() || how) + (this.equal ? " · next: equal" : "");
    }
    if (this.kind === "rating") {
      const [scales, unrated] = [this.scales(), this.unrated()];
      order.textContent = `${scales.length - unrated.length} of ${scales.length} rated`;
      for (const scale of scales) scale.classList.toggle("next", scale === unrated[0]);
    }
    for (const response of this.node.querySelectorAll(".response")) {
      response.classList.toggle("chosen", this.kind === "pair" && this.value("choice") === response.dataset.letter);
    }
    if (this.kind === "edit") this.compare();
    const notice = this.node.querySelector(".wrong");
    if (!notice.hidden && !this.missing()) notice.hidden = true;
  }

  compare() {
    const { correction } = this.node.elements;
    const changes = this.node.querySelector(".changes");
    changes.hidden = correction.value === correction.dataset.original;
    if (!changes.hidden) showDiff(changes.querySelector(".diff"), correction.dataset.original, correction.value);
  }
}
