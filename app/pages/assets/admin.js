/* The admin's pages: parts that are drawn again, a key for each action that a page offers, local times. */
"use strict";
const typing = (element) => element?.closest("input:not([type=checkbox]), textarea, select, details[open].confirm");
const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

const localTimes = (root) => {
  const relative = new Intl.RelativeTimeFormat([], { numeric: "auto" });
  for (const time of root.querySelectorAll("time:not([title])")) {
    const moment = new Date(time.dateTime);
    const seconds = (moment - Date.now()) / 1000;
    const [unit, length] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
    time.title = moment.toLocaleString([], { dateStyle: "full", timeStyle: "long" });
    // "In 2 days" does not say at what time a run begins.
    time.textContent = seconds > -7 * 86400 && seconds < 86400 ? relative.format(Math.round(seconds / length), unit)
      : moment.toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  }
};

const toEnd = (root) => root.querySelectorAll(".log").forEach((log) => log.scrollTo(0, log.scrollHeight));

/* `data-live` names where a part is fetched again. If the state that it shows is over, the page is. */
const follow = async (part) => {
  if (document.hidden) return;
  const answer = await fetch(part.dataset.live, { credentials: "same-origin" }).catch(() => null);
  if (!answer?.ok) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = (await answer.text()).trim();
  const [next, now] = [fresh.content.querySelector("[data-state]"), part.querySelector("[data-state]")];
  if (!next || !now) return;
  if (next.dataset.state !== now.dataset.state && !typing(document.activeElement)) return location.reload();
  const log = now.querySelector(".log");
  const reading = log && log.scrollTop + log.clientHeight < log.scrollHeight - 8;
  if (reading || part.contains(document.activeElement) || getSelection().containsNode(now, true) && !getSelection().isCollapsed) return;
  part.replaceChildren(fresh.content);
  localTimes(part);
  toEnd(part);
};
for (const part of document.querySelectorAll("[data-live]:not([data-over])")) setInterval(follow, 1000 * part.dataset.every, part);

addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const open of document.querySelectorAll("details.confirm[open]")) {
    open.open = false;
    open.firstElementChild.focus();
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const target = event.key === "/" ? document.querySelector("[type=search]") : document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (!target) return;
  event.preventDefault();
  if (event.key === "/") target.focus();
  else target.click();
});
addEventListener("click", ({ target }) => {
  for (const open of document.querySelectorAll("details.confirm[open]")) if (!open.contains(target)) open.open = false;
});

localTimes(document);
toEnd(document);
document.querySelector("header [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
document.querySelector("article[tabindex]")?.focus({ preventScroll: true });
document.querySelector("li[aria-current=true]")?.scrollIntoView({ block: "nearest" });
