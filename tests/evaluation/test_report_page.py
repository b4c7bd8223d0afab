"""The report as a reader meets it, in a real browser: videos play, nothing complains, nothing loads from outside."""

import numpy as np
import pytest
from headless_chromium import Chromium

from fovea.encoders.words import split_words
from fovea.evaluation.report import write_report
from fovea.lens.overlay import episode_frames
from fovea.lens.video import write_video

INSTRUCTION = "pick up the salad dressing and place it in the basket"


def _film(path, seed):
    """Two seconds of noise, with maps that look at one patch."""
    rng, words = np.random.default_rng(seed), split_words(INSTRUCTION)
    pictures = {name: rng.integers(0, 255, (40, 16, 16, 3), dtype=np.uint8) for name in ("image", "image2")}
    maps = {name: np.zeros((40, len(words), 4, 4), dtype=np.float32) for name in pictures}
    for each in maps.values():
        each[:, :, seed % 4, 1] = 1.0
    return write_video(episode_frames(pictures, maps, words, side=48), path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    films = [_film(folder / f"film{number}.mp4", number) for number in range(3)]
    steps = range(0, 2000, 5)
    data = {
        "title": "Three tasks & <a policy>",
        "quick": True,
        "summary": "An expert showed three tasks; EF-VLA learned them; then it was on its own.",
        "success": {"successes": 5, "episodes": 6},
        "tasks": [
            {"name": INSTRUCTION, "successes": 2, "episodes": 3},
            {"name": INSTRUCTION.replace("salad dressing", "alphabet soup"), "successes": 3, "episodes": 3},
        ],
        "curve": {
            "train": [[step, 0.05 + 0.5 * np.exp(-step / 200)] for step in steps],
            "validation": [[step, 0.07 + 0.5 * np.exp(-step / 200)] for step in steps[::40]],
        },
        "stages": [{"name": "collect", "seconds": 62.0}, {"name": "train", "seconds": 31.5}],
        "wall_seconds": 95.0,
        "videos": [
            {"path": film, "caption": f"{INSTRUCTION}: 40 steps", "success": number != 1, "maps": True}
            for number, film in enumerate(films)
        ],
        "diagnostics": {"right object approached": "5 of 6 episodes"},
        "configuration": {"policy": {"preset": "tiny", "layers": 4}, "training": {"steps": 2000, "seed": 0}},
        "versions": {"fovea": "0.1.0"},
        "commands": [
            {"what": "More:", "command": "fovea reproduce first --with a --rather long --command line"}
        ],
        "limits": ["Simulation only."],
    }
    return write_report(data, folder / "out")


@pytest.fixture(scope="module")
def browser(tmp_path_factory, page):
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        chromium.open(page)
        yield chromium


PLAY = """Promise.all([...document.querySelectorAll('video')].map(video => new Promise((resolve, reject) => {
    const began = video.currentTime;
    video.onerror = () => reject(new Error(video.error.message));
    video.ontimeupdate = () => {
        if (video.readyState >= 2 && video.currentTime > began + 0.05) resolve(video.videoWidth);
    };
    video.play().catch(reject);
})))"""

# Contrast of every piece of text with the ground it stands on (WCAG 2.2, success criterion 1.4.3).
FAINT = """(() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => numbers(colour).slice(0, 3).map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = node => {
        for (; node; node = node.parentElement) {
            const colour = getComputedStyle(node).backgroundColor;
            if (numbers(colour)[3] !== 0) return colour;
        }
        return 'rgb(255, 255, 255)';
    };
    const faint = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const node = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !node.checkVisibility()) continue;
        const style = getComputedStyle(node);
        const [a, b] = [light(node.closest('svg') ? style.fill : style.color), light(ground(node))];
        const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (contrast < 4.5) faint.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return faint;
})()"""


def test_every_video_plays(browser):
    widths = browser.evaluate(PLAY)
    assert len(widths) == 3
    assert min(widths) > 0


def test_nothing_loads_from_outside_and_nothing_complains(browser):
    browser.evaluate(PLAY)
    asked = browser.requests()
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1
    assert browser.complaints() == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_fits_and_can_be_read(browser, width, dark):
    browser.view(width=width, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(FAINT) == []
    ground = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, ground[4:-1].split(","))) < 60) == dark


def test_a_screen_reader_is_told_what_there_is(browser):
    assert browser.evaluate("document.title") == "Three tasks & <a policy>"
    unnamed = (
        "[...document.querySelectorAll('video, svg:not([aria-hidden])')].filter(n => !n.ariaLabel).length"
    )
    assert browser.evaluate(unnamed) == 0
    assert browser.evaluate("[...document.querySelectorAll('th')].filter(n => !n.scope).length") == 0
    assert browser.evaluate("document.querySelectorAll('td.range').length") == 2
    assert "mean nothing" in browser.evaluate("document.querySelector('[role=note]').innerText")
    outcomes = "[...document.querySelectorAll('figcaption .outcome')].map(n => n.innerText)"
    assert browser.evaluate(outcomes) == ["✓ success", "✗ failure", "✓ success"]
