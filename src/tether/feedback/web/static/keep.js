// What this browser keeps until the server has it: answers not yet sent, and drafts. One entry of localStorage each, so
// that two tabs never overwrite each other's. Where storage is refused, it lasts as long as the page.

const AGE = 30 * 86_400_000; // drafts older than this, in milliseconds, are dropped
const memory = new Map();

const storage = (() => {
  try {
    localStorage.setItem("tether:probe", "1");
    localStorage.removeItem("tether:probe");
    return localStorage;
  } catch {
    return null;
  }
})();

function keys() {
  return storage ? Object.keys(storage) : [...memory.keys()];
}

function read(key) {
  try {
    return JSON.parse((storage ? storage.getItem(key) : memory.get(key)) ?? "null");
  } catch {
    return null;
  }
}

function write(key, value) {
  const text = JSON.stringify(value);
  try {
    if (storage) storage.setItem(key, text);
    else memory.set(key, text);
    return true;
  } catch {
    return false; // full
  }
}

function drop(key) {
  if (storage) storage.removeItem(key);
  else memory.delete(key);
}

/** A named shelf of this user: entries by their own keys. */
export function shelf(name, user) {
  const prefix = `tether:${name}:${user}:`;
  return {
    get: (key) => read(prefix + key),
    set: (key, value) => write(prefix + key, value),
    delete: (key) => drop(prefix + key),
    all: () =>
      keys()
        .filter((key) => key.startsWith(prefix))
        .map((key) => ({ key: key.slice(prefix.length), ...read(key) })),
  };
}

export function dropOld(drafts) {
  for (const { key, at } of drafts.all()) if (!(Date.now() - at < AGE)) drafts.delete(key);
}
