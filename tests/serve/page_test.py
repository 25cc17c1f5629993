"""The page in a real browser: a clip, a question, an answer, its imagery, a probe."""

import numpy as np
import pytest
from helpers.browser import CHROMIUM, browser
from helpers.serving import OPTIONS, running
from helpers.videos import write

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
QUESTION = "How far from the camera is the cube?"


def drifting(seed, frames=6, side=48):
    rng = np.random.default_rng(seed)
    picture = np.kron(rng.integers(0, 255, (6, 6, 3)), np.ones((side // 6, side // 6, 1)))
    return [np.roll(picture, 4 * t, axis=1).astype(np.uint8) for t in range(frames)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("root")) as found:
        yield found


def text(tab, element):
    return tab.js(f"document.getElementById({element!r}).textContent")


def test_a_clip_is_asked_about_and_its_imagery_probed(server, tmp_path):
    clips = [write(tmp_path / f"clip{n}.mp4", drifting(n), fps=2) for n in range(2)]
    with browser(server.url.removesuffix("v1")) as tab:
        tab.until("document.getElementById('model')?.textContent === 'eye'")
        assert tab.js("document.getElementById('ask').disabled")
        tab.type("question", QUESTION)
        tab.type("options", "\n".join(OPTIONS))
        for number, clip in enumerate(clips):
            tab.choose_file("file", clip)
            tab.until(f"document.getElementById('drop').textContent.includes({clip.name!r})")
            tab.until("document.getElementById('video').duration > 2")
            tab.until("!document.getElementById('ask').disabled")
            tab.js("document.getElementById('ask').click()")
            tab.until("document.getElementById('letter').textContent !== ''")
            want = server.thinker.answer(clip, QUESTION, OPTIONS, max_tokens=48)
            blocks = want.text.count("<|latent_start|>")
            shown = text(tab, "answer")
            assert shown.count("image ") >= blocks > 0 and "<|latent" not in shown
            assert "<think>" not in shown and "<answer>" not in shown
            assert tab.js("document.querySelectorAll('#images img').length") == (
                -(-len(want.latents) // 4))
            assert tab.js("[...document.querySelectorAll('#images img')]"
                          ".every(i => i.naturalWidth === 256)")
            assert text(tab, "told") == "", number
        tab.js("document.getElementById('scrub').value = 500;"
               "document.getElementById('scrub').dispatchEvent(new Event('input'))")
        tab.until("document.getElementById('clock').textContent.startsWith('1.')")
        for rows, probe in enumerate(("zero", "freeze", "swap"), 2):
            tab.until(f"!document.querySelector('[data-probe={probe}]').disabled")
            tab.js(f"document.querySelector('[data-probe={probe}]').click()")
            tab.until(f"document.querySelectorAll('#probes tbody tr').length === {rows}")
            tab.until("document.querySelector('#probes tr:last-child .verdict').textContent")
        verdicts = tab.js("[...document.querySelectorAll('#probes td:nth-child(3)')]"
                          ".map(cell => cell.textContent)")
        assert verdicts[0] == "" and set(verdicts[1:]) <= {"same", "changed"}
        tab.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000
        tab.choose_file("file", write_text(tmp_path / "notes.txt"))
        tab.until("document.getElementById('told').textContent.includes('neither a video')")
        assert tab.errors == []


def write_text(path):
    path.write_text("no clip")
    return path
