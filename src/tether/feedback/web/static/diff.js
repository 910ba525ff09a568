// What changed between two texts, word by word, as nodes.

const MOST = 1500; // words of a text that is still compared: the table has their product

const words = (text) => text.match(/\s+|[^\s]+/g) ?? [];

export function showDiff(place, before, after) {
  const a = words(before);
  const b = words(after);
  place.replaceChildren(...(a.length > MOST || b.length > MOST ? ["Too long to compare here."] : parts(a, b)));
}

function parts(a, b) {
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width); // longest common subsequence of the ends from i and j
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      const at = i * width + j;
      common[at] = a[i] === b[j] ? common[at + width + 1] + 1 : Math.max(common[at + width], common[at + 1]);
    }
  }
  const nodes = [];
  const add = (kind, word) => {
    const last = nodes.at(-1);
    if (last?.kind === kind) last.text += word;
    else nodes.push({ kind, text: word });
  };
  for (let i = 0, j = 0; i < a.length || j < b.length; ) {
    if (i < a.length && j < b.length && a[i] === b[j]) add("same", a[(j++, i++)]);
    else if (j >= b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) add("del", a[i++]);
    else add("ins", b[j++]);
  }
  return nodes.map(({ kind, text }) => {
    if (kind === "same") return text;
    const node = document.createElement(kind);
    node.textContent = text;
    return node;
  });
}
