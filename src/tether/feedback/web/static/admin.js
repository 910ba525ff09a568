// Admins' pages: copying what is shown once, and a drawing's progress as it goes.

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const field = button.parentElement.querySelector("input");
    field.select();
    try {
      await navigator.clipboard.writeText(field.value);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Press Ctrl+C"; // without TLS, or where it is not allowed, a page cannot copy
    }
  });
}

const sampling = document.getElementById("sampling");

async function look() {
  const answer = await fetch(sampling.dataset.from, { headers: { accept: "application/json" } });
  const { job } = await answer.json();
  if (!job || !["waiting", "running"].includes(job.state)) {
    window.location.reload();
    return;
  }
  sampling.querySelector("progress").value = job.done;
  sampling.querySelector("[role=status]").textContent =
    `${job.state === "running" ? "Running" : "Waiting"}: ${job.done} of ${job.total} prompts answered.`;
  setTimeout(look, 1000);
}

if (sampling && ["waiting", "running"].includes(sampling.dataset.state)) setTimeout(look, 1000);
