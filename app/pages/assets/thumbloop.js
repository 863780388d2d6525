// What Gradio's components cannot do themselves: copying a reply, and the drawer with the chats on a phone.
(() => {
  "use strict";

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

  const drawer = (open) => {
    document.getElementById("tl-page")?.classList.toggle("tl-open", open);
    document.querySelector("[data-drawer]")?.setAttribute("aria-expanded", String(open));
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (target?.closest("[data-copy]")) {
      copy(target.closest("[data-copy]"));
    } else if (target?.closest("[data-drawer]")) {
      drawer(target.closest("[data-drawer]").getAttribute("aria-expanded") !== "true");
    } else if (target?.closest("#tl-new, [data-chat]") || !target?.closest("#tl-side")) {
      drawer(false);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") drawer(false);
  });
})();
