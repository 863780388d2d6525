// What Gradio's components cannot do themselves: saying that the session has ended, copying a reply, and the drawer
// with the chats on a phone.
(() => {
  "use strict";

  // The server leads to the sign-in, and from there back to this chat; the composer keeps the draft.
  const signedOut = Object.assign(document.createElement("dialog"), { className: "tl-dialog" });
  signedOut.innerHTML = `<form method="dialog"><p>@@signed_out@@</p>
    <div><button class="tl-button">@@close@@</button><a class="tl-button tl-main" autofocus>@@sign_in_again@@</a></div></form>`;

  // Gradio that has lost the server sends nothing until it reaches it again and reloads the page: "app_id" is what it
  // asks meanwhile. What was to be sent and did not get there is said.
  let [wanted, lost] = [false, false];
  const tell = () => {
    const notice = document.getElementById("tl-notice");
    if (wanted && lost && notice) notice.innerHTML = '<p class="tl-alert" role="alert">@@not_sent@@</p>';
  };
  const want = () => {
    wanted = true;
    tell();
  };
  const pressed = () => document.querySelector("#tl-box textarea").value.trim() && want();

  // A session can end while its page is open. Gradio would cover the page with "Error", so its request never ends.
  const ask = window.fetch;
  window.fetch = async (...request) => {
    const [address, joins] = [String(request[0]), String(request[0]).includes("queue/join")];
    const asked = joins && !String(request[1]?.body).includes('"quiet":true');
    const response = await ask(...request).catch((error) => {
      lost ||= joins || address.includes("gradio_api/app_id");
      if (asked) want();
      else tell();
      throw error;
    });
    if (asked) wanted = false;
    if (response.status !== 401) return response;
    signedOut.querySelector("a").href = location.pathname + location.search;
    document.body.append(signedOut);
    if (!signedOut.open) signedOut.showModal();
    return response.url.includes("/gradio_api/") ? new Promise(() => {}) : response;
  };

  const copy = async (button) => {
    const from = button.dataset.copyFrom;
    const text = from ? await (await fetch(from)).text() : button.dataset.copy;
    const name = button.getAttribute("aria-label");
    if (name === "@@copied@@") return;
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(text);
    } else {
      // Browsers offer the clipboard to https and this machine alone; this still works elsewhere.
      const area = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
      button.focus();
    }
    button.setAttribute("aria-label", "@@copied@@");
    button.dataset.copied = "";
    setTimeout(() => {
      button.setAttribute("aria-label", name);
      delete button.dataset.copied;
    }, 1500);
  };

  const drawer = (open) => {
    const page = document.getElementById("tl-page");
    if (!page || page.classList.contains("tl-open") === open) return;
    page.classList.toggle("tl-open", open);
    document.getElementById("tl-main").inert = open; // so that the focus stays in the drawer
    const menu = document.querySelector(".tl-header [data-drawer]");
    menu.setAttribute("aria-expanded", String(open));
    (open ? document.querySelector("#tl-side [data-drawer]") : menu).focus();
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const copied = target?.closest("[data-copy], [data-copy-from]");
    if (target?.closest("#tl-send")) pressed();
    if (copied) {
      copy(copied);
    } else if (target?.closest("[data-drawer]")) {
      drawer(target.closest(".tl-header") !== null);
    } else if (target?.closest("#tl-new, [data-chat]") || !target?.closest("#tl-side")) {
      drawer(false);
    }
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") drawer(false);
    if (event.key === "Enter" && !event.shiftKey && event.target.matches("#tl-box textarea")) pressed();
  });
})();
