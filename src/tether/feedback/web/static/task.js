// The task page at work: the next task is there before it is wanted, answers go out behind the annotator's back, and
// nothing typed is lost. Its parts: outbox.js (sending), keep.js (what the browser keeps), lease.js (keeping a task),
// form.js (one task's form), ranking.js, diff.js. Without any of it the form works by itself.

import { csrf, localTimes } from "./app.js";
import { TaskForm } from "./form.js";
import { dropOld, shelf } from "./keep.js";
import { Lease } from "./lease.js";
import { ask, Outbox, post } from "./outbox.js";

const desk = document.querySelector("#desk");
const place = document.querySelector("#place");
const away = document.querySelector("#away");
const told = document.querySelector("#told");
const { project, user } = desk.dataset;
const keys = JSON.parse(desk.dataset.keys);
const actionOf = new Map(Object.entries(keys).map(([action, key]) => [key, action]));

const TWICE = 500; // milliseconds in which a second click or key still means the task before
const NO_UNDO = "Taking back needs a connection.";
const AGAIN = 3000; // milliseconds until a task that could not be had is asked for again
const outbox = new Outbox(user);
const drafts = shelf("draft", user);
const refusals = shelf("refused", user);
const lease = new Lease();
let current = null; // TaskForm
let waiting = []; // forms to show next, nearest first
let fetching = null;
let wanted = false; // somebody waits for the next task
let loading = false;
let undoing = false;
let pressed = 0; // when the hand last clicked or struck a key, however late the page came to it
let answered = -Infinity; // the same of the last answer
let last = null; // what was answered last: {assignment, node}
dropOld(drafts);
dropOld(refusals);

const announce = (text) => (document.querySelector("#announce").textContent = text);

/** For eyes as well, until another task is shown. */
function tell(text) {
  told.textContent = text;
  told.hidden = false;
}

// ---- showing tasks

function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return document.importNode(template.content, true).firstElementChild;
}

function show(node) {
  place.replaceChildren(node);
  place.removeAttribute("aria-busy");
  away.hidden = told.hidden = true;
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  current = node.matches("form") ? new TaskForm(node, { drafts, keys, announce }) : null;
  if (current && !lease.holds(current.assignment)) lease.hold(current.assignment, Number(node.dataset.lease));
  document.title = `${current ? `Task ${current.assignment}` : "No task"} · Tether`;
  const hidden = desk.querySelector('nav input[name="assignment"]');
  if (hidden) hidden.value = current?.assignment ?? "";
  const undo = node.querySelector('[data-do="undo"]');
  if (undo) undo.hidden = false;
  localTimes(node);
  scrollTo(0, 0);
  node.querySelector("h1").focus();
}

/** Fetches a task that is neither in hand nor on its way out. */
function prefetch() {
  fetching ??= fetchTask().finally(() => (fetching = null));
  return fetching;
}

async function fetchTask() {
  const beside = [current, ...waiting].filter(Boolean).map((form) => form.assignment);
  for (const entry of outbox.entries()) if (entry.project === project) beside.push(entry.assignment);
  if (beside.length >= 5) return null; // as many as one may hold
  const answer = await ask(`/api/projects/${project}/task?${new URLSearchParams(beside.map((n) => ["beside", n]))}`);
  if (answer.status === 409) location.assign(`/projects/${project}/guideline`);
  else if (answer.status === 401 || answer.status === 403) location.reload();
  if (!answer.ok) return answer.status < 500 && answer.said.error ? note(answer.said.error) : null;
  const node = parse(answer.said.html);
  if (answer.said.assignment) {
    // Somebody signed in by another tab: what this page shows and sends is of the session before.
    if (node.elements.csrf.value !== csrf()) location.reload();
    waiting.push({ assignment: answer.said.assignment, node });
    lease.hold(answer.said.assignment, answer.said.lease_seconds);
  }
  return node;
}

/** The next task: at once when it is there, otherwise as soon as it is. */
async function next() {
  wanted = true;
  if (showReady()) return void prefetch();
  current = null;
  place.setAttribute("aria-busy", "true");
  if (loading) return;
  loading = true;
  await outbox.flush();
  const found = await prefetch();
  loading = false;
  if (!wanted || showReady()) return;
  if (found) show(found);
  else if (!place.querySelector(".none[data-waits]")) {
    show(note("The next task comes as soon as there is a connection."));
    place.firstElementChild.dataset.waits = ""; // said once: focus and open dialogs are left alone
  }
  wanted = !found;
  if (wanted) setTimeout(() => wanted && next(), AGAIN);
}

function showReady() {
  const ready = waiting.shift();
  if (!ready) return false;
  wanted = false;
  show(ready.node);
  measure();
  return true;
}

function note(text) {
  const section = document.createElement("section");
  const heading = document.createElement("h1");
  heading.tabIndex = -1;
  heading.textContent = text;
  section.className = "none";
  section.append(heading);
  return section;
}

function measure() {
  if (!performance.getEntriesByName("answered").length) return;
  // Two frames on, what was put there is on the screen.
  const shown = () => {
    performance.measure("next-task", "answered");
    performance.clearMarks("answered");
  };
  requestAnimationFrame(() => requestAnimationFrame(shown));
}

// ---- answering

function submit(skip = "") {
  if (!current) return; // the next one is on its way
  const wrong = skip ? "" : current.missing();
  if (wrong) return current.complain(wrong);
  if (!skip && !current.touched && pressed - answered < TWICE) return;
  answered = pressed;
  performance.clearMarks("answered");
  performance.mark("answered");
  const { assignment, node } = current;
  const kept = outbox.add({
    key: current.submitKey,
    project,
    assignment,
    url: `/api/tasks/${assignment}`,
    body: current.body(skip),
  });
  if (!kept) return current.complain("This browser's storage is full, so the answer cannot be kept until it is sent.");
  current.close();
  lease.release(assignment);
  last = { assignment, node };
  announce(skip ? "Skipped." : "Answered.");
  next();
  outbox.flush().then(prefetchIfShort);
}

function prefetchIfShort() {
  if (wanted) next();
  else if (current && !waiting.length) prefetch();
}

outbox.addEventListener("stored", ({ detail: { entry } }) => drafts.delete(entry.assignment));
outbox.addEventListener("refused", ({ detail: { entry, answer } }) => refuse(entry, answer.said.error));
outbox.addEventListener("change", () => {
  const count = outbox.entries().length;
  const saved = document.querySelector("#saved");
  const says = {
    idle: "Saved",
    sending: "Saving …",
    offline: `Waiting to send (${count})`,
    "signed-out": `Sign in again to send (${count})`,
  }[outbox.state];
  if (saved.dataset.state === outbox.state && saved.dataset.count === String(count)) return;
  Object.assign(saved.dataset, { state: outbox.state, count });
  saved.hidden = outbox.state === "idle" && !last;
  saved.replaceChildren(says);
  if (outbox.state === "signed-out") {
    const link = document.createElement("a");
    link.href = `/sign-in?next=${encodeURIComponent(location.pathname)}`;
    link.textContent = says;
    saved.replaceChildren(link);
  }
  if (outbox.state === "offline" || outbox.state === "signed-out") announce(says);
  if (outbox.state === "idle" && wanted) next();
});

/** What the server would not take is kept until it is put away. */
function refuse({ key, assignment, body }, why) {
  refusals.set(key, { assignment, body, why, at: Date.now() });
  showRefusal({ key, assignment, body, why });
}

/** It is shown with the words that were in it, to be copied. */
function showRefusal({ key, assignment, body, why }) {
  const words = new URLSearchParams(body);
  const box = document.createElement("div");
  box.className = "notice bad";
  const text = document.createElement("p");
  text.textContent = `Your answer was not stored. ${why ?? ""}`;
  box.append(text);
  for (const name of ["correction", "rationale", "flag_note"]) {
    if (!words.get(name)?.trim()) continue;
    const label = document.createElement("label");
    const area = document.createElement("textarea");
    area.readOnly = true;
    area.value = words.get(name);
    label.append("What you wrote: ", area);
    box.append(label);
  }
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Put away";
  close.addEventListener("click", () => {
    drafts.delete(assignment);
    refusals.delete(key);
    box.remove();
    (place.querySelector("h1") ?? place).focus();
  });
  box.append(close);
  document.querySelector("#refused").append(box);
}

// ---- taking back

async function undo() {
  if (undoing) return;
  undoing = true;
  told.hidden = true;
  await takeBack().catch(tell);
  undoing = false;
}

/** Rejects with the sentence to tell. */
async function takeBack() {
  const before = last?.assignment ?? (await lastAnswered());
  if (last && outbox.take(before)) return putBack(last.node);
  await outbox.flush();
  const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
  const answer = await ask(`/api/assignments/${before}/undo`, {
    method: "POST",
    body: JSON.stringify({ submit_key: key }),
    headers: { "content-type": "application/json", "x-csrf-token": csrf() },
  });
  if (!answer.ok) throw answer.said.error ?? NO_UNDO;
  last = null;
  const task = await ask(`/api/projects/${project}/task?task=${before}`);
  if (!task.ok) throw task.said.error ?? "The answer is taken back. Load the page again to see its task.";
  putBack(parse(task.said.html));
}

function putBack(node) {
  if (current) waiting.unshift({ assignment: current.assignment, node: current.node });
  current?.close();
  last = null;
  wanted = false;
  show(node);
  announce("Taken back. Answer it again.");
}

async function lastAnswered() {
  const answer = await ask(`/api/projects/${project}/history?limit=1`);
  if (!answer.ok) throw answer.said.error ?? NO_UNDO;
  if (!answer.said.answers.length) throw "There is no answer to take back.";
  return answer.said.answers[0].assignment;
}

// ---- being away

lease.addEventListener("away", ({ detail: assignment }) => {
  if (assignment !== current?.assignment) {
    waiting = waiting.filter((form) => form.assignment !== assignment);
    lease.release(assignment);
  } else if (away.hidden) {
    away.hidden = false;
    away.querySelector("p").textContent =
      "You were away, or without a connection, and the time for this task ran out. What you wrote is kept. " +
      "Others may get the task now.";
    away.querySelector("button").focus();
  }
});

async function comeBack() {
  const { assignment } = current;
  const answer = await lease.renew(assignment);
  if (answer.ok) {
    away.hidden = true;
    place.querySelector("h1").focus();
  } else if (answer.status === 409 || answer.status === 404) {
    const { submitKey: key } = current;
    refuse({ key, assignment, body: current.body() }, answer.said.error);
    current.close();
    lease.release(assignment);
    next();
  } else if (answer.status) location.reload();
  else away.querySelector("p").textContent = "There is no connection yet. What you wrote is kept. Go on when it is back.";
}

// ---- hands

for (const kind of ["keydown", "click"]) {
  addEventListener(kind, (event) => (pressed = event.timeStamp), { capture: true });
}

const dialogs = { help: "#help", guideline: "#guideline" };

function act(action) {
  if (action === "history") location.assign(`/projects/${project}/history`);
  else if (action in dialogs) document.querySelector(dialogs[action])?.showModal();
  else if (action === "view") desk.querySelector("nav form").requestSubmit();
  else if (action === "undo") undo();
  else if (!current) return false;
  else if (action === "submit") submit();
  else return current.act(action);
  return true;
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
  const { target } = event;
  if (event.repeat) return; // a key held down is no second answer
  if (!away.hidden && event.key === "Enter" && !target.closest("button")) comeBack();
  if (!away.hidden) return;
  const writing = target.matches("textarea, select, input:not([type=radio], [type=checkbox], [type=submit])");
  if (writing && event.key === "Escape") place.querySelector("h1")?.focus();
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && current) {
    event.preventDefault();
    submit();
  }
  if (writing || event.ctrlKey || event.metaKey) return;
  if (event.key === "Escape" && current?.closeAsides()) return;
  if (event.key === "Enter" && target.closest("button, a, summary")) return; // does what it says
  const action = actionOf.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
  if (action && act(action)) event.preventDefault();
});

place.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(event.submitter?.name === "skip" ? event.submitter.value : "");
});
document.addEventListener("click", (event) => {
  const action = event.target.closest("[data-do]")?.dataset.do;
  if (!action || action === "submit" || action === "history" || action === "view") return;
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (action === "guideline" && !document.querySelector("#guideline")) return;
  event.preventDefault();
  act(action);
});
away.querySelector("button").addEventListener("click", comeBack);
addEventListener("online", () => (away.hidden ? prefetchIfShort() : comeBack()));
addEventListener("pagehide", () => current?.keep());

// ---- begin

refusals.all().forEach(showRefusal);
const first = place.querySelector("form.task");
if (first && outbox.has(Number(first.dataset.assignment))) next(); // answered already, only not sent yet
else if (first) {
  show(first);
  outbox.flush().then(prefetchIfShort);
} else outbox.flush();
