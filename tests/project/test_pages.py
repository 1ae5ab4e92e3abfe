"""Scripts write between their marks in a page, and nowhere else."""

import json

import pytest
from scripts_of_pages import imported

page = imported("page")
MARKS = "<!-- begin: scripts/{0}.py -->\n{1}<!-- end: scripts/{0}.py -->"


def test_what_stands_around_the_marks_stays(tmp_path):
    at, one = tmp_path / "page.md", MARKS.format("one", "old\n")
    at.write_text(f"before\n{one}\nbetween\n{MARKS.format('two', 'kept')}\nafter\n")
    page.write(at, "one.py", ["new", "lines"])
    new = MARKS.format("one", "\nnew\nlines\n\n")
    assert at.read_text() == f"before\n{new}\nbetween\n{MARKS.format('two', 'kept')}\nafter\n"
    page.write(at, "one.py", ["new", "lines"])
    assert at.read_text().count("new") == 1


@pytest.mark.parametrize("text", ["", MARKS.format("two", ""), "<!-- begin: scripts/one.py -->"])
def test_a_page_without_marks_is_left(tmp_path, text):
    at = tmp_path / "page.md"
    at.write_text(text)
    with pytest.raises(ValueError, match=r"must have the lines <!-- begin: scripts/one\.py -->"):
        page.write(at, "one.py", ["new"])
    assert at.read_text() == text


def test_every_mark_is_of_a_script():
    for at in sorted((page.ROOT / "docs").rglob("*.md")):
        for line in at.read_text().splitlines():
            if line.startswith("<!-- begin: scripts/"):
                name = line.split("/")[1].split()[0]
                assert (page.ROOT / "scripts" / name).is_file(), (at.name, name)


def test_a_command_runs_once(tmp_path, monkeypatch):
    ran = []

    def immucond(words):
        ran.append(words)
        (tmp_path / "one" / "leak.json").parent.mkdir(exist_ok=True)
        return 0

    monkeypatch.setattr(page, "immucond", immucond)
    monkeypatch.setattr(page, "commit", lambda: "c0ffee")  # there may be no repository here
    for _ in range(2):
        assert page.command("leak --primary 'a b'", tmp_path / "one") == tmp_path / "one"
    assert ran == [["leak", "--primary", "a b", "--out", str(tmp_path / "one"), "--quiet"]]
    made = json.loads((tmp_path / "one" / "made.json").read_text())
    assert made["commit"] == "c0ffee"
    assert made["seconds"] >= 0


def test_a_command_that_failed_runs_again(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "immucond", lambda _: 2)
    for _ in range(2):
        with pytest.raises(SystemExit, match="immucond leak failed"):
            page.command("leak", tmp_path)
    assert not list(tmp_path.iterdir())
