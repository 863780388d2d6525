// What Gradio's transcript lacks: names that a screen reader says, the language of code, and code and tables that a
// keyboard can scroll.
(() => {
  "use strict";

  const all = (what) => document.querySelectorAll(`#tl-transcript ${what}`);
  const set = (element, name, value) => element.getAttribute(name) === value || element.setAttribute(name, value);

  // Each update of a stream draws the reasoning folded.
  const unfolded = new Set();
  document.addEventListener("click", ({ target }) => {
    const reasoning = target.closest?.(".tl-reasoning summary")?.parentElement;
    if (reasoning) unfolded[reasoning.open ? "delete" : "add"](reasoning.dataset.of); // before the browser turns it
  });

  const dress = () => {
    for (const reasoning of all(".tl-reasoning")) {
      if (unfolded.has(reasoning.dataset.of) && !reasoning.open) reasoning.open = true;
    }
    // While a reply is drawn again and again, a reader waits for its end.
    for (const log of all('[role="log"]')) set(log, "aria-busy", String(!!document.querySelector('[data-reply="streaming"]')));
    for (const row of all(".message-row")) {
      const kind = row.matches(".user-row") ? "@@you@@" : row.querySelector(".tl-bar") ? "@@about_reply@@" : "@@reply@@";
      set(row, "role", "group");
      set(row, "aria-label", kind);
    }
    // Gradio's names repeat the whole message, on elements that may have none.
    for (const named of all("[data-testid][aria-label]")) named.removeAttribute("aria-label");
    for (const code of all(".code_wrap code")) {
      set(code.closest(".code_wrap"), "data-language", /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "");
    }
    for (const wide of all(":is(.code_wrap pre, .md table)")) {
      if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    }
    for (const copy of all(".copy_code_button:not([aria-label])")) copy.setAttribute("aria-label", "@@copy_code@@");
    for (const task of all('.md [type="checkbox"]')) set(task, "aria-label", task.parentElement.textContent.trim());
    // Bullets and columns stand where the text begins.
    for (const block of all(".md :is(ul, ol, table, blockquote)")) set(block, "dir", "auto");
    for (const head of all("th:empty")) head.setAttribute("role", "cell");
  };

  const changes = { childList: true, subtree: true, attributeFilter: ["aria-label", "data-reply", "open"] };
  new MutationObserver(dress).observe(document.documentElement, changes);
  addEventListener("resize", dress);
})();
