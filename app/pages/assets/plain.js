/* The admin's plain pages: one key for each action that a page offers, and times as the reader's clock has them. */
"use strict";
const typing = (element) => element.closest("input:not([type=checkbox]), textarea, select");

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const target = event.key === "/" ? document.querySelector("[type=search]") : document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!target) return;
  event.preventDefault();
  if (event.key === "/") target.focus();
  else target.click();
});

for (const time of document.querySelectorAll("time")) {
  const moment = new Date(time.dateTime);
  time.title = time.textContent;
  time.textContent = moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
document.querySelector("article")?.focus({ preventScroll: true });
document.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
