// On the page of shortcuts: a field takes the key that is pressed in it.

const form = document.querySelector("#shortcuts");
const named = form.dataset.named.split(" ");

form.addEventListener("keydown", (event) => {
  const field = event.target;
  if (!field.name?.startsWith("key_") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key !== " " && (event.key.length === 1 || named.includes(event.key))) {
    event.preventDefault();
    field.value = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    check();
  }
});

form.addEventListener("input", check);

/** Two actions on one key are marked before they are sent. */
function check() {
  const fields = [...form.querySelectorAll('input[name^="key_"]')];
  for (const field of fields) {
    const twice = fields.some((other) => other !== field && other.value.toLowerCase() === field.value.toLowerCase());
    field.setCustomValidity(twice ? "Another action has this key." : "");
    field.toggleAttribute("aria-invalid", twice);
  }
}
