// Exports and imports on the page /admin/data: what is filled in goes to /api/v1, and its answer is shown.
(() => {
  "use strict";

  // What was left empty or as it was is not asked for: an option of one format is refused with another.
  const filledIn = (root) => {
    const query = new URLSearchParams();
    for (const input of root.querySelectorAll("input, select")) {
      if (!input.name || input.type === "file" || (input.type === "checkbox" && !input.checked)) continue;
      if (input.selectedOptions?.[0]?.defaultSelected) continue;
      if (input.value.trim() !== "") query.append(input.name, input.value.trim());
    }
    return query;
  };

  const refusal = async (response) => {
    const body = await response.json().catch(() => null);
    return body?.error?.message ?? `The server answered with status ${response.status}.`;
  };

  const element = (name, ...children) => {
    const made = document.createElement(name);
    made.append(...children);
    return made;
  };

  const table = (caption, heads, rows) => {
    const head = element("tr", ...heads.map((text) => element("th", text)));
    const body = rows.map((row) => element("tr", ...row.map((text) => element("td", text))));
    const made = element("div", element("table", element("caption", caption),
      element("thead", head), element("tbody", ...body)));
    made.className = "scroll";
    return made;
  };

  const exportVotes = async (form, result) => {
    const filters = filledIn(form.querySelector("[data-filters]"));
    filters.append("limit", "1");
    const found = await fetch(`../api/v1/examples?${filters}`, { credentials: "same-origin" });
    if (!found.ok) throw new Error(await refusal(found));
    // A link streams to disk and leaves the page as it is.
    const href = `${form.getAttribute("action")}?${filledIn(form)}`;
    Object.assign(document.createElement("a"), { href, download: "" }).click();
    result.textContent = "The download begins.";
  };

  // How many rows the export has, while its form is filled in.
  let counting = new AbortController();
  let pause = 0;
  const countRows = async (form) => {
    const shown = form.querySelector("[data-count]");
    counting.abort();
    counting = new AbortController();
    const request = { credentials: "same-origin", signal: counting.signal };
    try {
      const response = await fetch(`${form.getAttribute("action")}/count?${filledIn(form)}`, request);
      if (!response.ok) throw new Error(await refusal(response));
      const { rows, complete } = await response.json();
      const number = rows.toLocaleString("en").replaceAll(",", "\u202f");
      shown.textContent = `${complete ? "" : "More than "}${number} ${rows === 1 ? "row" : "rows"}`;
    } catch (error) {
      if (error.name !== "AbortError") shown.textContent = error instanceof TypeError ? "" : error.message;
    }
  };
  const exports = document.querySelector("[data-export]");
  exports.addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(countRows, 300, exports);
  });
  countRows(exports);

  const sendFile = async (form, path) => {
    form.querySelector("[data-report]").replaceChildren();
    const body = new FormData();
    body.append("file", form.elements.file.files[0]);
    const response = await fetch(`${form.getAttribute("action")}${path}?${filledIn(form)}`, {
      method: "POST", body, credentials: "same-origin",
    });
    if (!response.ok) throw new Error(await refusal(response));
    return response.json();
  };

  const showReport = (form, counts, { rejected, rejected_records: bad, dropped, left_out: columns }) => {
    const rows = [...counts, ["Left out as bad", bad ?? 0],
      ...Object.entries(dropped ?? {}).map(([reason, n]) => [`Dropped: ${reason}`, n]),
      ...Object.entries(columns ?? {}).map(([column, n]) => [`With the column ${column}, which is left out`, n])];
    const report = form.querySelector("[data-report]");
    report.append(table("Report of the import", ["Rows", "Number"], rows.map(([name, n]) => [name, String(n)])));
    if (rejected.length) {
      report.append(table("Rows that were left out", ["Where", "Why"],
        rejected.map((row) => [row.position, row.reason])));
    }
  };

  const importVotes = async (form, result) => {
    result.textContent = "Importing…";
    const answer = await sendFile(form, "");
    const { accepted, duplicates, changed } = answer;
    result.textContent = `Imported ${accepted} rows; ${duplicates} were there already.`;
    showReport(form, [["Imported", accepted], ["There already", duplicates], ["Changed", changed ?? 0]], answer);
  };

  const previewVotes = async (form, result) => {
    result.textContent = "Reading…";
    const answer = await sendFile(form, "/preview");
    result.textContent = `Nothing was stored. Format: ${answer.format ?? "none is known"}.`;
    form.querySelector("[data-report]").append(table("The first rows", ["Where", "Thumb", "Prompt", "Reply"],
      answer.rows.map((row) => [row.position, row.label ? "up" : "down",
        row.prompt.map((turn) => `${turn.role}: ${turn.content}`).join("\n"),
        [row.reasoning && `(reasoning) ${row.reasoning}`, row.reply, row.cut && "(cut at a token limit)"].filter(Boolean).join("\n")])));
    showReport(form, [["Thumbs up", answer.up], ["Thumbs down", answer.down]], answer);
  };

  // The name and what the field Columns says, which an import may then have by its name.
  const saveColumns = async (form) => {
    const name = form.querySelector("[data-columns-name]").value.trim();
    const response = await fetch(`${form.getAttribute("action")}/columns`, {
      method: "POST", credentials: "same-origin", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name, columns: form.elements.columns.value.trim() }),
    });
    if (!response.ok) throw new Error(await refusal(response));
    const saved = await response.json();
    const list = form.querySelector("[data-saved]");
    for (const item of list.children) if (item.firstChild.textContent === saved.name) item.remove();
    list.append(element("li", element("b", saved.name), `: ${saved.columns}`));
    const option = Object.assign(element("option", saved.columns), { value: saved.name });
    document.getElementById("saved-columns").append(option);
    return `Saved ${saved.name}.`;
  };

  document.addEventListener("click", async (event) => {
    if (!event.target.matches("[data-save-columns]")) return;
    const form = event.target.closest("form");
    const result = form.querySelector("[data-result]");
    try {
      result.textContent = await saveColumns(form);
    } catch (error) {
      result.textContent = error instanceof TypeError ? "No connection to the server." : error.message;
    }
  });

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const preview = event.submitter?.matches("[data-preview]");
    const work = form.matches("[data-export]") ? exportVotes
      : form.matches("[data-import]") ? (preview ? previewVotes : importVotes) : null;
    if (!work) return;
    event.preventDefault();
    const result = form.querySelector("[data-result]");
    const button = event.submitter ?? form.querySelector("[type=submit]");
    button.disabled = true;
    result.textContent = "";
    try {
      await work(form, result);
    } catch (error) {
      result.textContent = error instanceof TypeError ? "No connection to the server." : error.message;
    } finally {
      button.disabled = false;
    }
  });

  for (const button of document.querySelectorAll(".deeds [type=submit]")) button.disabled = false;
})();
