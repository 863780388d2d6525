// Exports and imports on the page /admin/data: what is filled in goes to /api/v1, and its answer is shown.
(() => {
  "use strict";

  // What was left empty or as it was is not asked for: an option of one format is refused with another.
  const filledIn = (root) => {
    const query = new URLSearchParams();
    for (const input of root.querySelectorAll("input, select")) {
      if (input.type === "file" || (input.type === "checkbox" && !input.checked)) continue;
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
    const found = await fetch(`/api/v1/examples?${filters}`, { credentials: "same-origin" });
    if (!found.ok) throw new Error(await refusal(found));
    // A link streams to disk and leaves the page as it is.
    const href = `${form.getAttribute("action")}?${filledIn(form)}`;
    Object.assign(document.createElement("a"), { href, download: "" }).click();
    result.textContent = "The download begins.";
  };

  const importVotes = async (form, result) => {
    const report = form.querySelector("[data-report]");
    report.replaceChildren();
    result.textContent = "Importing…";
    const body = new FormData();
    body.append("file", form.elements.file.files[0]);
    const response = await fetch(`${form.getAttribute("action")}?${filledIn(form)}`, {
      method: "POST", body, credentials: "same-origin",
    });
    if (!response.ok) throw new Error(await refusal(response));
    const { accepted, duplicates, rejected, rejected_records: bad, dropped } = await response.json();
    result.textContent = `Imported ${accepted} rows; ${duplicates} were there already.`;
    const counts = [["Imported", accepted], ["There already", duplicates], ["Left out as bad", bad ?? 0],
      ...Object.entries(dropped ?? {}).map(([reason, rows]) => [`Dropped: ${reason}`, rows])];
    report.append(table("Report of the import", ["Rows", "Number"], counts.map(([name, n]) => [name, String(n)])));
    if (rejected.length) {
      report.append(table("Rows that were left out", ["Where", "Why"],
        rejected.map((row) => [row.position, row.reason])));
    }
  };

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    const work = form.matches("[data-export]") ? exportVotes : form.matches("[data-import]") ? importVotes : null;
    if (!work) return;
    event.preventDefault();
    const result = form.querySelector("[data-result]");
    const button = form.querySelector("[type=submit]");
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
})();
