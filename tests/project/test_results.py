"""Scripts that write the pages of results: their commands, and the sections that they fill."""

import shlex

import pytest
from scripts_of_pages import imported

from immucond._cli import build_parser

pytest.importorskip("matplotlib", reason="the extra experiments is not installed")
for needed in ("torch", "transformers"):
    pytest.importorskip(needed, reason="the extra deep is not installed")


def runs():
    """Every command of the pages of results, as a list of words."""
    worth, erasure, deep = map(imported, ("worth_results", "erasure_results", "deep_results"))
    for network in worth.NETWORKS.values():
        at = f"--backbone a {network.tasks}"
        yield network.making(*worth.MADE)
        yield f"lock --backbone a --primary {network.primary} {network.reading} --kind gauges"
        yield f"erase {at} --tols 0.01"
        yield f"attack {at} {network.heads} --no-scratch"
        yield f"attack {at} {network.whole} --target 0.5"
        yield f"leak {at} --no-untrained"
        yield f"cost --backbone a --harmful {network.harmful} {network.reading} --params head"
    yield from (words for _, words in erasure.RUNS.values())
    yield from (f"deep {words}" for words in deep.RUNS.values())


@pytest.mark.parametrize("words", list(runs()), ids=lambda words: words[:60])
def test_the_pages_give_commands_that_there_are(words):
    found, unknown = build_parser().parse_known_args(shlex.split(words))
    assert not unknown
    found.parser.check(found)


def test_each_network_has_its_section():
    for script in ("deep_results", "worth_results", "erasure_results"):
        module = imported(script)
        names = getattr(module, "NETWORKS", None) or module.RUNS
        for name in names:
            page = module.page_of(name) if hasattr(module, "page_of") else module.PAGE
            assert f"<!-- begin: scripts/{script}.py {name} -->" in page.read_text()


@pytest.mark.parametrize("script", ["deep_results", "worth_results", "erasure_results"])
def test_a_name_that_nobody_knows_ends_the_script(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "nowhere"])
    with pytest.raises(SystemExit) as ended:
        imported(script).main()
    assert ended.value.code == 2
    assert "nowhere: none of" in capsys.readouterr().err


def test_kept_units_are_added_and_never_replaced(tmp_path):
    here, kept = tmp_path / "here", tmp_path / "kept"
    for folder, units in ((here, "ab"), (kept, "bc")):
        folder.mkdir()
        for unit in units:
            (folder / f"{unit}.json").write_text(f"{folder.name} {unit}")
    (here / "a.txt").write_text("of no unit")
    deep = imported("deep_results")
    deep.add_files(kept, here)
    deep.add_files(here, kept)
    for folder, told in ((here, "here here kept"), (kept, "here kept kept")):
        found = {p.name: p.read_text() for p in folder.glob("*.json")}
        assert found == {
            f"{u}.json": f"{of} {u}" for of, u in zip(told.split(), "abc", strict=True)
        }
    assert not (kept / "a.txt").exists()
