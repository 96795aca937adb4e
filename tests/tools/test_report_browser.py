"""The report's page in a real browser: it sorts, filters and plays. Skipped without selenium and Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Commands
from tests.tools.report_runs import SENTENCES, write_sweep
from tests.waiting import wait_until

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver")


@pytest.fixture(scope="module")
def page(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = write_sweep(tmp_path_factory.mktemp("sweep"))
    commands.speechllm("report", out, "--published").ok()
    return out / "report/index.html"


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000",
                     "--autoplay-policy=no-user-gesture-required"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def column(browser: Any, place: int) -> list[str]:
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('#wer-basic tbody tr')].map(row => row.cells[arguments[0]].textContent)",
        place,
    )
    return found


def test_a_column_sorts_by_click_and_by_key(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    button = browser.find_elements("css selector", "#wer-basic thead button")[1]
    button.click()
    upwards = column(browser, 0)
    assert upwards == ["tiny.llm.ctc", "tiny.llm.base", "tiny.llm.bad"]
    button.send_keys(Keys.ENTER)
    assert column(browser, 0) == upwards[::-1]
    head = browser.find_elements("css selector", "#wer-basic thead th")[1]
    assert head.get_attribute("aria-sort") == "descending"


def articles(browser: Any) -> list[str]:
    return [article.text for article in browser.find_elements("css selector", "article")]


def test_utterances_are_filtered_and_two_systems_stand_together(browser: Any) -> None:
    from selenium.webdriver.support.ui import Select

    assert browser.find_element("id", "count").text == f"{len(SENTENCES)} utterances"
    assert "</script>" in browser.find_element("id", "list").text
    Select(browser.find_element("id", "one")).select_by_visible_text("tiny.llm.ctc")
    Select(browser.find_element("id", "kind")).select_by_visible_text("substitute")
    wrong = articles(browser)
    assert len(wrong) == len(SENTENCES) / 4 and all("something" in text for text in wrong)
    Select(browser.find_element("id", "other")).select_by_visible_text("tiny.llm.bad")
    assert len(articles(browser)) == len(SENTENCES) and "tiny.llm.bad" in articles(browser)[0]
    browser.find_element("id", "text").send_keys("weather")
    assert all("weather" in text for text in articles(browser)) and len(articles(browser)) == len(SENTENCES) / 4


def test_the_sound_plays(browser: Any) -> None:
    played = browser.execute_async_script("""
        const done = arguments[0], audio = document.querySelector("audio");
        audio.addEventListener("ended", () => done(audio.duration));
        audio.addEventListener("error", () => done(-1));
        audio.play().catch(error => done(String(error)));
    """)
    assert played == pytest.approx(4000 / 16000, abs=0.02)


def test_nothing_is_asked_for_and_nothing_goes_wrong(browser: Any) -> None:
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in requests if not name.startswith("data:")] == []
    assert browser.get_log("browser") == []


def test_a_folded_table_opens_by_its_link(browser: Any) -> None:
    folded = "return document.querySelector('#pairs-wer-basic details').open"
    # Few systems: nothing is folded, so that one is made.
    browser.execute_script("""
        const section = document.getElementById("pairs-wer-basic"), made = document.createElement("details");
        made.append(...section.childNodes);
        section.append(made);
    """)
    assert browser.execute_script(folded) is False
    browser.find_element("css selector", "nav a[href='#pairs-wer-basic']").click()
    # The browser tells the page of its new place in an event of its own.
    wait_until(lambda: browser.execute_script(folded), "the table is opened", 60)


def test_the_page_fits_a_phone(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


def test_the_page_follows_dark_mode(browser: Any) -> None:
    colours = []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]
