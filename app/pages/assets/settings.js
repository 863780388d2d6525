// The settings of a chat: its system prompt, until it has begun, and how its replies are sampled. An empty number is the
// server's own, which stands in the field as a hint.
(() => {
  "use strict";

  const NUMBERS = { temperature: "@@temperature@@", top_p: "@@top_p@@", max_new_tokens: "@@longest_reply@@" };
  const dialog = document.createElement("dialog");
  dialog.className = "tl-dialog tl-settings";
  dialog.setAttribute("aria-label", "@@chat_settings@@");
  dialog.innerHTML = `<form method="dialog"><h2>@@chat_settings@@</h2>
    <label>@@system_prompt@@<textarea name="system_prompt" dir="auto" rows="4" aria-describedby="tl-system-note"></textarea></label>
    <p id="tl-system-note"></p>
    <div class="tl-numbers">${Object.entries(NUMBERS).map(([name, words]) => `<label>${words}<input type="number" name="${name}"></label>`).join("")}</div>
    <div><button type="button" class="tl-button" data-close-settings>@@cancel@@</button>
    <button type="submit" class="tl-button">@@save@@</button></div></form>`;
  const form = dialog.querySelector("form");
  const fields = Object.keys(NUMBERS).map((name) => form.elements[name]);

  const ask = ({ settings, begun }) => {
    const { system_prompt, sampling, usual, longest_prompt } = JSON.parse(settings);
    const limits = { temperature: [0, 2, "any"], top_p: [0.01, 1, "any"], max_new_tokens: [1, usual.max_new_tokens, 1] };
    form.elements.system_prompt.value = system_prompt;
    form.elements.system_prompt.readOnly = Boolean(begun);
    form.elements.system_prompt.maxLength = longest_prompt;
    dialog.querySelector("#tl-system-note").textContent = begun ? "@@system_stays@@" : "@@system_what@@";
    for (const field of fields) {
      [field.min, field.max, field.step] = limits[field.name];
      field.value = sampling[field.name] ?? "";
      field.placeholder = usual[field.name];
    }
    document.body.append(dialog);
    dialog.showModal();
    if (begun) fields[0].focus();
  };

  document.addEventListener("click", ({ target }) => {
    const button = target.closest?.("button");
    if (button?.matches("[data-settings]")) ask(button.dataset);
    if (button?.matches("[data-close-settings]")) dialog.close();
  });
  form.addEventListener("submit", () => {
    const given = fields.filter((field) => field.value !== "").map((field) => [field.name, Number(field.value)]);
    const prompt = form.elements.system_prompt;
    const system = prompt.readOnly ? {} : { system_prompt: prompt.value };
    const detail = JSON.stringify({ ...system, sampling: Object.fromEntries(given) });
    document.dispatchEvent(new CustomEvent("tl-settings", { detail }));
  });
})();
