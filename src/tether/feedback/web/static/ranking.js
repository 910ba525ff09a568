// An order typed by letters, best first, kept in the form's own selects: place 1, 2 … or none.

const selects = (form) => [...form.querySelectorAll('select[name^="rank_"]')];
const letterOf = (select) => select.name.slice("rank_".length);

/** The groups of equals, best first: [["C"], ["A", "B"]]. */
export function orderOf(form) {
  const places = new Map();
  for (const select of selects(form)) {
    if (select.value) places.set(+select.value, [...(places.get(+select.value) ?? []), letterOf(select)]);
  }
  return [...places].sort(([a], [b]) => a - b).map(([, letters]) => letters);
}

function set(form, order) {
  for (const select of selects(form)) {
    const place = order.findIndex((letters) => letters.includes(letterOf(select)));
    select.value = place < 0 ? "" : String(place + 1);
  }
  form.dispatchEvent(new Event("input", { bubbles: true }));
}

const without = (order, letter) => order.map((group) => group.filter((l) => l !== letter)).filter((g) => g.length);

/** Puts a response last, or beside the last one. */
export function append(form, letter, equal) {
  const order = without(orderOf(form), letter);
  if (equal && order.length) order.at(-1).push(letter);
  else order.push([letter]);
  set(form, order);
}

export function eraseLast(form) {
  const order = orderOf(form);
  if (order.length) order.at(-1).pop();
  set(form, order.filter((group) => group.length));
}

/** One place up or down; what has no place yet gets the last one. */
export function move(form, letter, step) {
  const order = orderOf(form);
  const at = order.findIndex((group) => group.includes(letter));
  if (at < 0) return append(form, letter, false);
  const rest = order.map((group) => group.filter((l) => l !== letter));
  const alone = rest[at].length === 0;
  if (alone) rest.splice(at, 1);
  const goal = step < 0 ? (alone ? at - 1 : at) : at + 1;
  rest.splice(Math.max(0, Math.min(goal, rest.length)), 0, [letter]);
  set(form, rest);
}

export function say(order) {
  return order.map((group) => group.join(" = ")).join(" > ");
}
