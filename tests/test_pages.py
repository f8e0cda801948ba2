"""The page of select_images.py: what it shows, that nothing in it runs, and that it opens where it is moved to."""

import re
import shutil
from html import unescape
from urllib.parse import unquote

import pytest
from chromium import needs_chromium, title_after
from conftest import photograph

from models.items import Item
from models.pages import write_thumbnails
from models.selection import Choice, Selection
from models.selection_results import write_selection_page

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def images(tmp_path):
    """Pictures whose names need care in an address, two of the same name, and one that is not there any more."""
    names = ["a/西湖 1#日%出?.png", "a/1.png", "b/1.png", 'b/"><img src=x onerror=alert(1)>.png', "b/gone.png"]
    paths = [tmp_path / name for name in names]
    for number, path in enumerate(paths[:-1]):
        path.parent.mkdir(exist_ok=True)
        photograph(number).resize((700, 500)).save(path, "PNG")
    return paths


@pytest.fixture
def page(tmp_path, images):
    choices = [Choice(0, "chosen", 1, 1.25, 2, 0.75), Choice(1, "chosen", 2, 0.5, 1, 0.875)]
    choices += [Choice(index, "below_threshold", None, None, index + 1, 0.25) for index in (2, 3, 4)]
    selections = [
        Selection(Item("7", "西湖日出", "西湖,断桥"), choices, 12345, 2, 12343),
        Selection(Item(f'8"{EVIL}', EVIL, f"普陀山,{EVIL}"), choices[2:], 3, 0, 3),
    ]
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "my #1 page.html"
    write_selection_page(path, selections, images, f"rule {EVIL}")
    return path


def test_the_page_shows_both_scores_ranks_and_reasons(page):
    text = unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))
    text = re.sub(r"\s+", " ", text)
    assert "1. click 1.2500 content 0.7500, rank 2 西湖 1#日%出?.png" in text
    assert "content 0.2500, rank 3 below threshold 1.png" in text
    assert "2 of 12,345 images chosen · 12,343 below the score threshold · 0 not among the best" in text
    assert "no image" in text and "Images of 2 items" in text


def test_names_are_text(page):
    content = page.read_text(encoding="utf-8")
    assert EVIL not in content and "<img src=x" not in content
    assert unescape(content).count(EVIL) > 4  # but they are shown
    assert len(re.findall("<script>", content)) == 1 and not re.search("https?:|//", content.split("</style>")[0])
    assert not re.search(r'(src|href)="?(https?:|//|/|file:)', content)


def test_thumbnails_are_small_lazy_and_move_with_the_page(page, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "out", moved)
    content = (moved / page.name).read_text(encoding="utf-8")
    pictures = re.findall(r'<a href="([^"]+)"><img src="([^"]+)" alt="[^"]*" loading="lazy"', content)
    assert len(pictures) == 6 and content.count("<img ") == 6
    for original, small in pictures:
        assert not set(original + small) & set('#? "<')
        assert (moved / unquote(original)).resolve().is_file()
        assert 0 < (moved / unquote(small)).stat().st_size < 40_000
    assert len({small for _, small in pictures}) == 4, "two images of one name have a thumbnail each"
    assert content.count('<div class="missing">') == 2


def test_thumbnails_are_made_once_and_again_when_the_image_changed(page, images):
    folder = page.with_name("my #1 page_thumbnails")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    photograph(9, 90, 60).save(images[1])
    thumbnails = write_thumbnails(page, images)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == [thumbnails[images[1]].small.rpartition("/")[2]]
    images[0].unlink()
    assert write_thumbnails(page, images)[images[0]] is None


ACTIONS = """
const shown = () => cards.filter(card => !card.hidden).map(card => card.dataset.name[0]).join("");
const type = text => { search.value = text; search.dispatchEvent(new Event("input")); return shown(); };
const seen = [shown(), type("断桥"), type("ALERT"), type("nowhere"), type("")];
misses.click();
seen.push(shown(), type("断桥"));
document.title = seen.join("|");
"""


@needs_chromium
def test_search_and_filter_in_chromium(page):
    assert title_after(page, ACTIONS) == "78|7|8||78|8|"  # of items 7 and 8, the second without an image
