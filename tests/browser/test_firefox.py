"""The first vote by keyboard in the system's Firefox, which Mozilla's Marionette drives."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_server import LiveServer

marionette = pytest.importorskip("marionette_driver.marionette", reason="pip install marionette-driver")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
# An error of a script of ours would be told to the console, which Marionette does not show.
LISTEN = "window.failed = []; addEventListener('error', ({message}) => failed.push(message))"
SHOWN = "return [...document.querySelectorAll('[data-message] [data-vote]')].map(one => one.ariaPressed)"


@pytest.fixture
def firefox(tmp_path: Path) -> Iterator[Any]:
    if FIREFOX is None:
        pytest.skip("Firefox is not installed: apt-get install firefox-esr")
    client = marionette.Marionette(bin=FIREFOX, headless=True, gecko_log=str(tmp_path / "gecko.log"))
    client.start_session()
    yield client
    client.cleanup()


def test_the_first_vote_by_keyboard(chat_server: LiveServer, firefox: Any) -> None:
    from marionette_driver import Wait
    from marionette_driver.by import By
    from marionette_driver.keys import Keys

    wait = Wait(firefox, timeout=60)
    firefox.navigate(chat_server.url)
    firefox.execute_script(LISTEN, sandbox=None)
    focused = "return document.activeElement.matches('#tl-box textarea')"
    wait.until(lambda _: firefox.execute_script(focused))
    firefox.get_active_element().send_keys("Hello" + Keys.ENTER)
    wait.until(lambda _: firefox.find_elements(By.CSS_SELECTOR, "[data-message]"))
    named = "return document.activeElement.ariaLabel"
    while firefox.execute_script(named) != "Like":
        firefox.get_active_element().send_keys(Keys.SHIFT + Keys.TAB)
    firefox.get_active_element().send_keys(Keys.ENTER)
    wait.until(lambda _: firefox.execute_script(SHOWN) == ["true", "false"])
    assert firefox.execute_script("return window.failed", sandbox=None) == []
