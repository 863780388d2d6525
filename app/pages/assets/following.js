// The transcript follows a reply while it grows, as long as the reader is at its end. Gradio's own following scrolls down
// 0.3 s after it has looked where the reader is, so it moves one who has scrolled up meanwhile.
(() => {
  "use strict";

  const NEAR = 40; // pixels from the end that count as the end to one who scrolls down
  const SETTLES = 1500; // milliseconds in which a chat that was opened, or a reply that ended, is still drawn
  let following = true;
  let [top, until, open] = [0, 0, null]; // where we left the transcript; when to stop following; the open chat
  let held = false; // a pointer is down in the transcript: what it is on must not move away
  let read = 0; // the distance from the end that stays while earlier messages are drawn above; 0: it need not

  const box = () => document.querySelector("#tl-transcript .bubble-wrap");
  const below = (one) => one.scrollHeight - one.clientHeight - one.scrollTop;

  // Whoever scrolls up leaves the end, if only by a pixel; whoever comes near it from above is there again.
  const look = (one) => {
    if (one.scrollTop < top - 1) following = below(one) <= 1;
    else if (one.scrollTop > top + 1 && below(one) <= NEAR) following = true;
    top = one.scrollTop;
  };

  const follow = () => {
    const one = box();
    if (!one) return;
    if (read && one.scrollHeight > read) one.scrollTop = one.scrollHeight - read;
    look(one);
    if (document.querySelector('[data-reply="streaming"]')) until = performance.now() + SETTLES;
    if (held || !following || performance.now() > until || below(one) <= 1) return;
    one.scrollTop = one.scrollHeight;
    top = one.scrollTop;
  };

  const begin = () => {
    following = true;
    until = performance.now() + SETTLES;
    follow();
  };

  document.addEventListener("scroll", ({ target }) => target === box() && look(target), { capture: true, passive: true });
  document.addEventListener("tl-opened", () => {
    const chat = document.querySelector("#tl-chats [data-current]")?.dataset.current;
    if (chat !== open) begin();
    open = chat;
  });
  document.addEventListener("tl-sent", begin);
  document.addEventListener("click", ({ target }) => {
    const one = target.closest?.("[data-earlier]") && box();
    if (!one) return;
    read = one.scrollHeight - one.scrollTop;
    setTimeout(() => { read = 0; }, SETTLES);
  });
  // What is opened or voted on below shall not move.
  for (const deed of ["pointerdown", "keydown"]) {
    document.addEventListener(deed, ({ type, target }) => {
      if (!target.closest?.("#tl-transcript")) return;
      until = 0;
      held = type === "pointerdown";
    }, true);
  }
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => { held = false; }, true);
  new MutationObserver(follow).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
  addEventListener("resize", follow);
})();
