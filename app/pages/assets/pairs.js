// Side by side: the last reply and another one to the same message, in random order and without their versions.
// Better and worse become a thumb up and a thumb down, both bad two thumbs down; a tie is no vote.
(() => {
  "use strict";

  const dialog = document.createElement("dialog");
  dialog.className = "tl-dialog tl-pair";
  dialog.setAttribute("aria-label", "@@which_is_better@@");
  dialog.innerHTML = `<form method="dialog"><h2>@@which_is_better@@</h2>
    <p role="status"></p><div class="tl-replies"></div><p class="tl-refused" role="alert"></p>
    <div class="tl-verdicts"><button class="tl-button" value="left">@@left@@</button><button class="tl-button" value="right">@@right@@</button>
    <button class="tl-button" value="tie">@@equally_good@@</button><button class="tl-button" value="bad">@@both_bad@@</button>
    <button class="tl-button" value="cancel" formnovalidate>@@cancel@@</button></div></form>`;
  const [status, refused] = [dialog.querySelector("[role=status]"), dialog.querySelector(".tl-refused")];
  const verdicts = [...dialog.querySelectorAll(".tl-verdicts button")].slice(0, 4);
  let pair = []; // the two replies from left to right, as {id, content}

  const call = async (method, address, body) => {
    const response = await fetch(`api/v1/messages/${address}`, {
      method, body: body && JSON.stringify(body), credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-Thumbloop-Language": "@@tag@@" },
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok) throw new Error(answer?.error?.message ?? "@@server_status@@".replace("{status}", response.status));
    return answer;
  };
  const failure = (error) => (error instanceof TypeError ? "@@no_connection@@" : error.message);

  const draw = () => {
    dialog.querySelector(".tl-replies").replaceChildren(...pair.map(({ content }, place) => {
      const section = document.createElement("section");
      section.setAttribute("aria-label", place ? "@@right@@" : "@@left@@");
      section.tabIndex = 0;
      section.dir = "auto";
      section.textContent = content.trim() || "@@empty_reply@@";
      return section;
    }));
    verdicts.forEach((button) => { button.disabled = pair.length < 2; });
  };

  const compare = async (id, content) => {
    pair = [];
    draw();
    refused.textContent = "";
    status.textContent = "@@another_comes@@";
    document.body.append(dialog);
    dialog.showModal();
    try {
      const other = await call("POST", `${encodeURIComponent(id)}/regenerate?stream=false&compare=true`);
      pair = [{ id, content }, { id: other.id, content: other.content }];
      if (Math.random() < 0.5) pair.reverse();
      status.textContent = "@@read_both@@";
    } catch (error) {
      status.textContent = "";
      refused.textContent = failure(error);
    }
    draw();
  };

  const LABELS = { left: [true, false], right: [false, true], bad: [false, false], tie: [] };
  const decide = async (verdict) => {
    verdicts.forEach((button) => { button.disabled = true; });
    try {
      for (const [place, label] of LABELS[verdict].entries()) await call("PUT", `${pair[place].id}/vote`, { label });
      dialog.close(pair[verdict === "right" ? 1 : 0].id);
    } catch (error) {
      refused.textContent = failure(error);
      draw();
    }
  };

  dialog.addEventListener("submit", (event) => {
    event.preventDefault();
    const verdict = event.submitter?.value;
    if (verdict === "cancel" || !verdict) dialog.close("");
    else decide(verdict);
  });
  // The page shows the better reply, or what there is now if nothing was decided.
  dialog.addEventListener("close", () => {
    document.dispatchEvent(new Event("tl-look"));
    document.dispatchEvent(dialog.returnValue ? new CustomEvent("tl-show", { detail: dialog.returnValue }) : new Event("tl-changed"));
    dialog.returnValue = "";
  });
  document.addEventListener("click", ({ target }) => {
    const bar = target.closest?.("[data-compare]")?.closest("[data-message]");
    if (bar) compare(bar.dataset.message, bar.querySelector("[data-copy]").dataset.copy);
  });
})();
