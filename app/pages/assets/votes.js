// Votes: a thumb counts at once; tags, a comment and a correction are changes of the same vote.
(() => {
  "use strict";

  const NAMES = ["comment", "correction"];

  // keepalive lets the request outlive a reload right after the click.
  const send = (method, address, body) =>
    fetch(address, {
      method,
      headers: { "Content-Type": "application/json", "X-Thumbloop-Language": "@@tag@@" },
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      keepalive: true,
    });

  const address = (message, what) => `api/v1/messages/${encodeURIComponent(message)}/${what}`;

  const refusal = async (response) => {
    if (response.status === 401) return "@@vote_signed_out@@";
    const body = await response.json().catch(() => null);
    return body?.error?.message ?? "@@vote_refused@@".replace("{status}", response.status);
  };

  const find = (message) => document.querySelector(`[data-message="${CSS.escape(message)}"]`);
  const thumb = (bar, direction) => bar.querySelector(`[data-vote="${direction}"]`);
  const text = (bar, name) => bar.querySelector(`[data-text="${name}"]`);
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";

  const shown = (bar) => ({
    label: pressed(thumb(bar, "up")) ? true : pressed(thumb(bar, "down")) ? false : null,
    tags: [...bar.querySelectorAll("[data-tag]")].filter(pressed).map((chip) => chip.dataset.tag),
    ...Object.fromEntries(NAMES.map((name) => [name, text(bar, name).textContent || null])),
  });

  const show = (bar, vote) => {
    thumb(bar, "up").setAttribute("aria-pressed", String(vote.label === true));
    thumb(bar, "down").setAttribute("aria-pressed", String(vote.label === false));
    for (const chip of bar.querySelectorAll("[data-tag]")) {
      chip.setAttribute("aria-pressed", String(vote.tags.includes(chip.dataset.tag)));
    }
    for (const name of NAMES) {
      const value = vote[name] ?? "";
      // Writing what is there already would be a change to the observer below, for ever.
      if (text(bar, name).textContent !== value) text(bar, name).textContent = value;
      text(bar, name).parentElement.hidden = !value;
    }
    const details = bar.querySelector(".tl-details");
    details.hidden = vote.label === null;
    details.dataset.thumb = vote.label === null ? "" : vote.label ? "up" : "down";
    bar.querySelector(".tl-thanks").hidden = vote.label === null; // shown only where it was cast on this page
  };

  const NOTHING = { label: null, tags: [], comment: null, correction: null };

  // What this page has stored: while a reply streams, the ones before it are drawn as they were when it began.
  const stored = new Map();
  const wholes = new Map(); // the thumbs of whole chats, by chat
  const correct = () => {
    for (const [message, vote] of stored) {
      const bar = find(message);
      if (bar) show(bar, vote);
    }
    for (const button of document.querySelectorAll("[data-whole]")) {
      const { whole, of } = button.dataset;
      if (wholes.has(of)) button.setAttribute("aria-pressed", String(wholes.get(of) === (whole === "up")));
    }
  };
  document.addEventListener("tl-look", () => [stored, wholes].forEach((known) => known.clear())); // another tab may have changed them
  new MutationObserver(correct).observe(document.documentElement, { childList: true, subtree: true });

  // Stored first, shown afterwards: nothing looks cast that is not on disk. Throws what to say.
  const store = async (message, drawn, change) => {
    const before = stored.get(message) ?? drawn;
    if (!before) throw new Error("@@vote_no_reply@@");
    const vote = { ...before, ...change(before) };
    find(message)?.setAttribute("aria-busy", "true");
    try {
      const response = await (vote.label === null
        ? send("DELETE", address(message, "vote"))
        : send("PUT", address(message, "vote"), vote));
      if (!response.ok) throw new Error(await refusal(response));
      stored.set(message, vote.label === null ? NOTHING : vote);
      correct();
    } catch (error) {
      throw error instanceof TypeError ? new Error("@@vote_no_connection@@") : error;
    } finally {
      find(message)?.removeAttribute("aria-busy");
    }
  };

  // One change at a time per reply, so that quick clicks arrive in the order they were made; by its turn
  // another chat may be open.
  const turns = new Map();
  const inTurn = (message, change) => {
    const bar = find(message);
    const drawn = bar && shown(bar);
    const next = (turns.get(message) ?? Promise.resolve()).catch(() => {}).then(() => store(message, drawn, change));
    turns.set(message, next);
    return next;
  };

  // What grows below the thumbs may end below the edge of the transcript, and be higher than a small one: its end counts.
  const reveal = (message) => {
    const rows = find(message)?.querySelectorAll(".tl-tags, .tl-own:not([hidden])");
    [...(rows ?? [])].at(-1)?.scrollIntoView({ block: "nearest" });
  };

  const press = async (message, change) => {
    const say = (words) => {
      const refused = find(message)?.querySelector(".tl-refused");
      if (refused) refused.textContent = words;
    };
    say("");
    await inTurn(message, change).then(() => reveal(message), (error) => say(error.message));
  };

  const vote = (direction) => (before) => ({ label: before.label === (direction === "up") ? null : direction === "up" });

  // A thumb for the whole chat: the server spreads it over the replies without a vote of their own, and says which.
  const pressWhole = async (button) => {
    const { whole, of } = button.dataset;
    const say = (words) => (find(messageOf(button)) ?? document).querySelector(".tl-refused").replaceChildren(words);
    const path = `api/v1/chats/${encodeURIComponent(of)}`;
    const label = pressed(button) ? null : whole === "up";
    button.disabled = true;
    try {
      const response = await (label === null ? send("DELETE", `${path}/vote`) : send("PUT", `${path}/vote`, { label }));
      if (!response.ok) throw new Error(await refusal(response));
      wholes.set(of, label);
      const { messages } = await (await send("GET", path)).json();
      for (const { id, vote } of messages) {
        if (find(id)?.querySelector("[data-vote]")) stored.set(id, vote ?? NOTHING);
      }
      say("");
      correct();
    } catch (error) {
      say(error instanceof TypeError ? "@@vote_no_connection@@" : error.message);
    } finally {
      button.disabled = false;
    }
  };

  const toggle = (tag) => (before) => ({
    tags: before.tags.includes(tag) ? before.tags.filter((other) => other !== tag) : [...before.tags, tag],
  });

  const dialog = document.createElement("dialog");
  dialog.className = "tl-dialog";
  dialog.setAttribute("aria-label", "@@say_more_about@@");
  dialog.innerHTML = `<form method="dialog">
    <label>@@comment@@<textarea name="comment" dir="auto" rows="3"></textarea></label>
    <label>@@correction@@<textarea name="correction" dir="auto" rows="5"></textarea></label>
    <p class="tl-refused" role="alert"></p>
    <div><button type="button" class="tl-button" data-cancel>@@cancel@@</button>
    <button type="submit" class="tl-button">@@save@@</button></div></form>`;
  const form = dialog.querySelector("form");

  const written = new Map(); // what was typed when Escape closed the dialog, by message
  const ask = (message) => {
    const before = written.get(message) ?? stored.get(message) ?? shown(find(message));
    for (const name of NAMES) form.elements[name].value = before[name] ?? "";
    dialog.querySelector(".tl-refused").textContent = "";
    dialog.dataset.about = message;
    document.body.append(dialog);
    dialog.showModal();
  };

  const typed = () => Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value.trim() || null]));
  dialog.addEventListener("cancel", () => written.set(dialog.dataset.about, typed()));

  const save = async () => {
    const message = dialog.dataset.about;
    const texts = typed();
    try {
      await inTurn(message, () => texts);
      written.delete(message);
      dialog.close();
      reveal(message);
      find(message)?.querySelector("[data-more]").focus();
    } catch (error) {
      dialog.querySelector(".tl-refused").textContent = error.message;
    }
  };

  form.addEventListener("submit", (event) => {
    event.preventDefault(); // it closes once it is stored
    save();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });

  const buttonOf = (target) => (target instanceof Element ? target.closest("button") : null);
  const messageOf = (button) => button?.closest("[data-message]")?.dataset.message;

  // A transcript that is drawn again while a button is held down takes it away, and no click comes: the button
  // that stands there now is meant, if it is the same one.
  const meaning = (button) => messageOf(button) && JSON.stringify([messageOf(button), { ...button.dataset }]);
  let held = {};
  document.addEventListener("pointerdown", ({ target }) => {
    const button = buttonOf(target);
    held = { button, meant: meaning(button) };
  });
  document.addEventListener("pointerup", ({ clientX, clientY }) => {
    const now = buttonOf(document.elementFromPoint(clientX, clientY));
    if (held.meant && !held.button.isConnected && meaning(now) === held.meant) now.click();
  });

  document.addEventListener("click", (event) => {
    const button = buttonOf(event.target);
    const message = messageOf(button);
    if (button?.matches("[data-cancel]")) {
      written.delete(dialog.dataset.about);
      dialog.close();
    }
    if (!message) return;
    if (button.dataset.vote) press(message, vote(button.dataset.vote));
    else if (button.dataset.whole) pressWhole(button);
    else if (button.dataset.tag) press(message, toggle(button.dataset.tag));
    else if (button.matches("[data-more]")) ask(message);
    else if (button.matches("[data-copy]")) send("POST", address(message, "signals"), { kind: "copied" }).catch(() => {});
  });

  // The keys u and d, on the reply that has the focus or the last one; in a field they are letters.
  const KEYS = { u: "up", d: "down" };
  document.addEventListener("keydown", (event) => {
    const key = KEYS[event.key];
    const { target } = event;
    if (!key || event.ctrlKey || event.metaKey || event.altKey || event.repeat || document.querySelector("dialog[open]")) return;
    if (target.matches("input:not([type=checkbox]), textarea, select") || target.isContentEditable) return;
    const row = target.closest(".message-row");
    const last = document.querySelector('[data-reply="ended"]') && document.querySelector(".message-row:last-child");
    const bar = [row, row?.nextElementSibling, last].map((one) => one?.querySelector("[data-message]")).find(Boolean);
    if (bar?.querySelector("[data-vote]")) press(bar.dataset.message, vote(key));
  });
})();
