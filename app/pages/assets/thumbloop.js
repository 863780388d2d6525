// What Gradio's components cannot do themselves: thumbs with a state that assistive technology sees,
// copying a reply, the drawer with the chats on a phone, and the import of large files.
(() => {
  "use strict";

  // A thumb is pressed only once the server has stored the vote. keepalive lets the request
  // outlive a reload right after the click.
  const store = (message, label) =>
    fetch(`api/v1/messages/${encodeURIComponent(message)}/vote`, {
      method: label === null ? "DELETE" : "PUT",
      headers: { "Content-Type": "application/json" },
      body: label === null ? undefined : JSON.stringify({ label }),
      credentials: "same-origin",
      keepalive: true,
    });

  const refusal = async (response) => {
    const body = await response.json().catch(() => null);
    return body?.error?.message ?? `The vote was not stored (status ${response.status}).`;
  };

  const vote = async (bar, thumb) => {
    const said = bar.querySelector(".tl-refused");
    const up = thumb.dataset.vote === "up";
    const label = thumb.getAttribute("aria-pressed") === "true" ? null : up;
    bar.setAttribute("aria-busy", "true");
    said.textContent = "";
    try {
      const response = await store(bar.dataset.message, label);
      if (!response.ok) throw new Error(await refusal(response));
      for (const each of bar.querySelectorAll("[data-vote]")) {
        const pressed = label !== null && (each.dataset.vote === "up") === label;
        each.setAttribute("aria-pressed", String(pressed));
      }
    } catch (error) {
      said.textContent = error instanceof TypeError ? "No connection: the vote was not stored." : error.message;
    } finally {
      bar.removeAttribute("aria-busy");
    }
  };

  // One vote at a time per reply, so that quick clicks arrive in the order they were made.
  const turns = new WeakMap();

  const copy = async (button) => {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(button.dataset.copy);
    } else {
      // Browsers offer the clipboard to https and this machine alone; this still works elsewhere.
      const area = Object.assign(document.createElement("textarea"), { value: button.dataset.copy });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => button.setAttribute("aria-label", "Copy"), 1500);
  };

  const importVotes = async (input) => {
    const said = document.querySelector("[data-imported]");
    const form = new FormData();
    form.append("file", input.files[0]);
    input.value = "";
    said.textContent = "Importing…";
    try {
      const response = await fetch("../api/v1/import", { method: "POST", body: form, credentials: "same-origin" });
      const body = await response.json();
      said.textContent = response.ok
        ? `Imported ${body.accepted} rows; ${body.duplicates} were there already.`
        : body.error.message;
    } catch {
      said.textContent = "No connection: nothing was imported.";
    }
  };

  const drawer = (open) => {
    document.getElementById("tl-page")?.classList.toggle("tl-open", open);
    document.querySelector("[data-drawer]")?.setAttribute("aria-expanded", String(open));
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const thumb = target?.closest("[data-vote]");
    const bar = thumb?.closest("[data-message]");
    if (bar) {
      turns.set(bar, (turns.get(bar) ?? Promise.resolve()).then(() => vote(bar, thumb)));
    } else if (target?.closest("[data-copy]")) {
      copy(target.closest("[data-copy]"));
    } else if (target?.closest("[data-drawer]")) {
      drawer(target.closest("[data-drawer]").getAttribute("aria-expanded") !== "true");
    } else if (target?.closest("#tl-new, [data-chat]") || !target?.closest("#tl-side")) {
      drawer(false);
    }
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches?.("[data-import]") && event.target.files.length) importVotes(event.target);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") drawer(false);
  });
})();
