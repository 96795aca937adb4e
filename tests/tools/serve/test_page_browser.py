"""The page in a real browser with a microphone that plays a file. Skipped without selenium and Chromium."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("espeakng_loader")
pytest.importorskip("openai")
pytest.importorskip("fastapi")
pytest.importorskip("selenium", reason="selenium is not installed")

from selenium import webdriver

from tests.tools.serve.serving import KEY, Server

Keys = webdriver.Keys
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def browser(server: Server, clips: list[Path], folder: Path) -> Iterator[Any]:
    samples, rate = soundfile.read(clips[1])
    soundfile.write(folder / "microphone.wav", np.concatenate([samples, samples]), rate)
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000",
                     "--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream",
                     "--use-fake-device-for-media-stream",
                     f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}"):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.get(server.url)
    yield driver
    driver.quit()


def waited(browser: Any, condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        shown = browser.find_element("id", "error")
        assert time.monotonic() < deadline, shown.text or browser.find_element("tag name", "body").text
        time.sleep(0.05)
    return found


def find(browser: Any, name: str) -> Any:
    return browser.find_element("id", name)


def run(browser: Any) -> str:
    """The text that is shown behind a click on the main button."""
    waited(browser, lambda: find(browser, "run").is_enabled())
    find(browser, "run").click()
    waited(browser, lambda: find(browser, "result").is_displayed() and find(browser, "run").is_enabled())
    top, height = browser.execute_script(
        "return [document.getElementById('result').getBoundingClientRect().top, window.innerHeight]"
    )
    assert top < height, "the text is below what is seen"
    return shown(browser)[0].text


def shown(browser: Any) -> list[Any]:
    """What holds the text of each system."""
    return [text for text in browser.find_elements("css selector", ".text") if text.is_displayed()]


def drawn(browser: Any) -> float:
    """Share of the waveform's points that are painted: silence is a thin line."""
    share: float = browser.execute_script("""
        const wave = document.getElementById("wave");
        const {data} = wave.getContext("2d").getImageData(0, 0, wave.width, wave.height);
        return data.filter((value, place) => place % 4 === 3 && value > 0).length / (wave.width * wave.height);
    """)
    return share


def test_the_page_asks_for_the_key(browser: Any) -> None:
    waited(browser, lambda: find(browser, "key").is_displayed())
    find(browser, "key").send_keys("wrong" + Keys.TAB)
    waited(browser, lambda: "found no valid key" in find(browser, "error").text)
    find(browser, "key").clear()
    find(browser, "key").send_keys(KEY + Keys.TAB)
    waited(browser, lambda: find(browser, "model").text == "Model: tiny")
    assert not find(browser, "error").is_displayed()


def test_words_light_up_as_they_are_played(browser: Any, server: Server, clips: list[Path], folder: Path) -> None:
    find(browser, "file").send_keys(str(clips[2]))
    create = server.client().audio.transcriptions.create
    expected = create(file=clips[2], model="tiny", response_format="verbose_json",
                      timestamp_granularities=["word", "segment"])  # fmt: skip
    assert run(browser).split() == expected.text.split()
    # Enter on the second word, reached by the arrow key, plays from there.
    first = browser.find_element("css selector", ".text [data-start]")
    first.send_keys(Keys.ARROW_RIGHT)
    second = browser.switch_to.active_element
    assert (second.text, float(second.get_attribute("data-start"))) == (expected.words[1].word, expected.words[1].start)
    lit = browser.execute_async_script("""
        const done = arguments[0], audio = document.querySelector("audio"), lit = [];
        audio.addEventListener("ended", () => done(lit), {once: true});
        const watch = () => { lit.push([audio.currentTime, document.querySelector(".text .now")?.textContent]);
                              if (!audio.ended) requestAnimationFrame(watch); };
        watch();
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true}));
    """)
    said = [word for _, word in lit if word]
    assert said and set(said) <= {word.word for word in expected.words}
    assert lit[-1][0] > expected.words[1].start
    browser.find_element("css selector", ".srt").click()
    saved = folder / f"{clips[2].stem}.srt"
    waited(browser, saved.exists)
    assert saved.read_text() == create(file=clips[2], model="tiny", response_format="srt")


def test_the_waveform_is_a_slider(browser: Any) -> None:
    wave = find(browser, "wave")
    # Read in the same task of the browser: no `seeked` comes between.
    assert browser.execute_script('''
        const wave = arguments[0];
        wave.dispatchEvent(new KeyboardEvent("keydown", {key: "Home"}));
        return wave.getAttribute("aria-valuenow");
    ''', wave) == "0"  # fmt: skip
    wave.send_keys(Keys.END)
    waited(browser, lambda: int(wave.get_attribute("aria-valuenow")) >= 1)
    assert 0.02 < drawn(browser) < 0.9


def test_translation_and_question(browser: Any, server: Server, clips: list[Path]) -> None:
    transcribe = browser.find_element("css selector", "input[value=transcribe]")
    transcribe.send_keys(Keys.ARROW_RIGHT)
    find(browser, "target").clear()
    find(browser, "target").send_keys("fr")
    create = server.client().audio.transcriptions.create
    expected = create(file=clips[2], model="tiny", extra_body={"target_language": "fr"}).text
    assert run(browser).split() == expected.split()
    browser.find_element("css selector", "input[value=ask]").click()
    assert not find(browser, "target").is_displayed()
    find(browser, "instruction").send_keys("Which room?")
    assert run(browser) and not browser.find_element("css selector", ".srt").is_displayed()
    assert not find(browser, "error").is_displayed()


def test_a_second_system_stands_beside_the_first(
    browser: Any, server: Server, clips: list[Path], folder: Path
) -> None:
    browser.find_element("css selector", "input[value=transcribe]").click()
    create = server.client().audio.transcriptions.create
    expected = [create(file=clips[2], model=name).text for name in ("tiny", "second")]
    assert len(set(expected)) == 2
    find(browser, "beside").send_keys("second")
    run(browser)
    assert [text.text.split() for text in shown(browser)] == [text.split() for text in expected]
    assert [title.text for title in browser.find_elements("css selector", ".title")] == ["tiny", "second"]
    # Both are heard: a word of the second plays, and words of both light up.
    said = browser.execute_async_script("""
        const done = arguments[0], audio = document.querySelector("audio"), lit = [new Set(), new Set()];
        const panels = document.querySelectorAll(".text");
        let isOver = false;  // its element says so, too, until it plays: an earlier test was at its end
        audio.addEventListener("ended", () => { isOver = true; done(lit.map(words => words.size)); }, {once: true});
        const watch = () => {
            panels.forEach((panel, place) => panel.querySelectorAll(".now").forEach(word => lit[place].add(word)));
            if (!isOver) requestAnimationFrame(watch);
        };
        watch();
        panels[1].querySelector("[data-start]").click();
    """)
    assert min(said) > 0
    browser.find_elements("css selector", ".srt")[1].click()
    saved = folder / f"{clips[2].stem}.second.srt"
    waited(browser, saved.exists)
    assert saved.read_text() == create(file=clips[2], model="second", response_format="srt")
    one, other = (text.rect for text in shown(browser))
    assert one["x"] + one["width"] < other["x"] and one["y"] == other["y"], "they do not stand side by side"
    find(browser, "beside").send_keys("No")
    run(browser)
    assert len(shown(browser)) == 1


def test_a_recording_by_microphone_is_transcribed(browser: Any) -> None:
    browser.find_element("css selector", "input[value=transcribe]").click()
    find(browser, "record").click()
    waited(browser, lambda: find(browser, "record").get_attribute("aria-pressed") == "true")
    time.sleep(2)
    find(browser, "record").click()
    waited(browser, lambda: find(browser, "name").text == "recording.wav")
    assert run(browser)
    assert 0.5 < browser.execute_script("return document.querySelector('audio').duration") < 10
    assert drawn(browser) > 0.03


def test_a_refusal_is_shown_as_the_server_says_it(browser: Any, folder: Path) -> None:
    (folder / "letter.wav").write_text("no sound at all, but a text")
    find(browser, "file").send_keys(str(folder / "letter.wav"))
    waited(browser, lambda: find(browser, "name").text == "letter.wav")
    waited(browser, lambda: find(browser, "run").is_enabled())
    find(browser, "run").click()
    waited(browser, lambda: "found no audio (text)" in find(browser, "error").text)


def test_nothing_goes_wrong_and_nothing_is_asked_of_others(browser: Any, server: Server) -> None:
    requests = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in requests if not name.startswith((server.url, "data:", "blob:"))] == []
    # The refusals of the tests above are in the log of the browser.
    log = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [line for line in log if "Failed to load resource" not in line] == []


def test_the_page_fits_a_phone_and_follows_dark_mode(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True})  # fmt: skip
    width = browser.execute_script("return document.documentElement.scrollWidth")
    colours = []
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})  # fmt: skip
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390
    assert colours == ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]
