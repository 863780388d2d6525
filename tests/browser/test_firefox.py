"""Chatting, voting and the admin's feedback in the system's Firefox, which Mozilla's Marionette drives."""

from typing import Any

import pytest

from tests.support.live_server import LiveServer

driver = pytest.importorskip("marionette_driver", reason="`make install` has it before Python 3.13")
Keys = driver.keys.Keys

# In the browser's own window: what the server refused, and what the console tells of the server's pages.
LISTEN = """
window.refused = [];
Services.obs.addObserver(subject => {
  const {responseStatus, URI} = subject.QueryInterface(Ci.nsIHttpChannel);
  if (responseStatus >= 400) window.refused.push(`${responseStatus} ${URI.spec}`);
}, "http-on-examine-response");
"""
FAILED = """
const thrown = Services.console.getMessageArray()
  .filter(one => one instanceof Ci.nsIScriptError && !(one.flags & Ci.nsIScriptError.warningFlag))
  .filter(one => one.sourceName.startsWith(arguments[0])).map(one => one.errorMessage);
const said = Cc["@mozilla.org/consoleAPI-storage;1"].getService(Ci.nsIConsoleAPIStorage).getEvents()
  .filter(one => one.level === "error" && one.filename.startsWith(arguments[0]))
  .map(one => one.arguments.join(" "));
return [...window.refused, ...thrown, ...said];
"""
SHOWN = "return [...document.querySelectorAll('[data-message] [data-vote]')].map(one => one.ariaPressed)"
WIDE = 640  # at 200 % zoom, 320 px of CSS


class Visit:
    """A person at Firefox."""

    def __init__(self, firefox: Any) -> None:
        self.firefox = firefox
        self.wait = driver.Wait(firefox, timeout=60)

    def until(self, script: str, value: object = True) -> None:
        self.wait.until(lambda _: self.firefox.execute_script(script) == value, message=script)

    def click(self, css: str) -> None:
        self.until(f"return !!document.querySelector({css!r})")
        self.firefox.find_element(driver.By.CSS_SELECTOR, css).click()

    def press(self, *keys: str) -> None:
        self.firefox.get_active_element().send_keys("".join(keys))

    def assert_fits_at_double_size(self) -> None:
        self._zoom(2)
        self.until(f"return innerWidth === {WIDE // 2}")
        assert self.firefox.execute_script("return document.documentElement.scrollWidth") <= WIDE // 2
        self._zoom(1)

    def _zoom(self, factor: int) -> None:
        with self.firefox.using_context("chrome"):
            self.firefox.execute_script(f"gBrowser.selectedBrowser.fullZoom = {factor}")


def test_votes_by_keyboard_and_side_by_side_and_an_admin_reads_them(
    chat_server: LiveServer, firefox: Any
) -> None:
    visit = Visit(firefox)
    firefox.set_window_rect(width=WIDE, height=900)
    with firefox.using_context("chrome"):
        firefox.execute_script(LISTEN, sandbox=None)

    firefox.navigate(chat_server.url)
    visit.until("return document.activeElement.matches('#tl-box textarea')")
    visit.press("Hello", Keys.ENTER)
    visit.until("return !!document.querySelector('[data-message]')")
    while firefox.execute_script("return document.activeElement.ariaLabel") != "Like":
        visit.press(Keys.SHIFT, Keys.TAB)
    visit.press(Keys.ENTER)
    visit.until(SHOWN, ["true", "false"])
    visit.assert_fits_at_double_size()

    visit.click("[data-compare]")
    visit.click("dialog button[value=left]:enabled")
    visit.until(SHOWN, ["true", "false"])

    firefox.navigate(chat_server.admin_link())
    firefox.navigate(f"{chat_server.url}/admin/feedback")
    visit.until("return document.querySelectorAll('[name=vote_id]').length >= 2")
    visit.assert_fits_at_double_size()

    with firefox.using_context("chrome"):
        assert firefox.execute_script(FAILED, [chat_server.url], sandbox=None) == []
