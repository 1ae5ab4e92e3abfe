"""Scripts that write the pages of results: their commands, and the sections that they fill."""

import dataclasses
import json
import shlex

import pytest
from scripts_of_pages import imported

from immucond._cli import build_parser

pytest.importorskip("matplotlib", reason="the extra experiments is not installed")
for needed in ("torch", "transformers"):
    pytest.importorskip(needed, reason="the extra deep is not installed")


SCRIPTS = ("worth_results", "erasure_results", "deep_results", "rivals_results")


def runs():
    """Every command of the pages of results, as a list of words."""
    worth, erasure, deep, rivals = map(imported, SCRIPTS)
    for network in worth.NETWORKS.values():
        for name, release in network.releases.items():
            yield release.command.format(base="a")
            for words in network.measures(name, whole=True).values():
                yield words.format(at="a", target=0.5)
    yield from (words for _, words in erasure.RUNS.values())
    yield from (f"deep {words}" for words in deep.RUNS.values())
    for contest in rivals.NETWORKS.values():
        yield contest.made
        for how in filter(None, (contest.heads, contest.whole)):
            yield contest.attacked(how).replace("{target}", "0.5")


@pytest.mark.parametrize("words", sorted(set(runs())), ids=lambda words: words[:60])
def test_the_pages_give_commands_that_there_are(words):
    found, unknown = build_parser().parse_known_args(shlex.split(words))
    assert not unknown
    found.parser.check(found)


def test_each_network_has_its_section():
    for script in SCRIPTS:
        module = imported(script)
        names = getattr(module, "NETWORKS", None) or module.RUNS
        for name in names:
            page = module.page_of(name) if hasattr(module, "page_of") else module.PAGE
            assert f"<!-- begin: scripts/{script}.py {name} -->" in page.read_text()


@pytest.mark.parametrize("script", SCRIPTS)
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


@pytest.fixture
def worth(monkeypatch):
    """The script, whose commands are listed and leave what commands of their kind leave."""
    module, asked = imported("worth_results"), []

    def command(words, out):
        if (out / "made.json").exists():
            return out
        asked.append(words)
        kind, strong = words.split()[0], "fade" in words
        attack = {
            "attacker": "lstsq",
            "start": "plain, stages.2",
            "accuracy": 0.5,
            "loss": 1.25,
            "seconds": 0.5,
        }
        of = {**attack, "steps": "inf" if strong else 2}
        left = {
            "attack": {"runs": [{"utility": 0.9, "target": 0.8, "attacks": {"release": [of]}}]},
            "leak": {
                "profile": {
                    "cuts": {"head": {"rho": 0.25}},
                    "where": "head",
                    "ceiling": 0.6 if strong else 0.7,
                }
            },
            "cost": {"costs": {"release": {"head": {"steps": {"0.5": {"lower": 3}}}}}},
            "made": {"commit": "abc", "seconds": 2.0},
        }
        if kind == "deep":
            method = words.split("--method ")[1].split()[0]
            unit = {"all": {"rir": 4.0}, "probe": {"adam": {"accuracy": [0.1, 0.6]}}}
            left["results"] = {"methods": {method: {"seeds": [unit]}}}
        for name in ("made", "results" if kind == "deep" else kind):
            (out / f"{name}.json").parent.mkdir(parents=True, exist_ok=True)
            (out / f"{name}.json").write_text(json.dumps(left.get(name, {})))
        networks = {"lock": "release", "erase": "releases/erase-0.03"}  # none within one point
        if kind == "deep":
            networks["deep"] = f"units/models/{method}"
        (out / networks.get(kind, "")).mkdir(parents=True, exist_ok=True)
        return out

    monkeypatch.setattr(module, "command", command)
    monkeypatch.setattr(module, "draw", lambda found, plot: None)
    module.asked = asked
    return module


def test_what_was_measured_of_a_release_is_kept_and_told(worth, tmp_path):
    network, kept = worth.NETWORKS["minilm"], tmp_path / "kept"

    def rows(work):
        return {
            name: worth.measured(network, name, tmp_path / work, kept / f"{name}.json", False)
            for name in network.releases
        }

    first = rows("here")
    assert len(worth.asked) == len(set(worth.asked)) == 10 + 2 + 1 + 3 * 13  # but erase-0.01
    asked = len(worth.asked)
    assert rows("elsewhere") == first  # from the kept files alone
    assert len(worth.asked) == asked
    told = "\n".join(worth.section("minilm", first))
    assert "| fade | 90.0% | 4 | 0.25 | 60.0% | 3 | 60.0% | head | inf |" in told
    assert "| random gauges, kappa 1e3 | 90.0% |  | 0.25 |  | 3 | 70.0% | head | 2 |" in told
    assert "No network is within its tolerance: erasure, 1 point." in told
    assert f"{2.0 * asked:.0f} s of computing" in told


def test_other_commands_measure_a_release_anew(worth, tmp_path):
    kept = tmp_path / "fade.json"
    few = dataclasses.replace(worth.NETWORKS["minilm"], rows=600)
    for network, work in ((few, "few"), (worth.NETWORKS["minilm"], "many")):
        before = len(worth.asked)
        worth.measured(network, "fade", tmp_path / work, kept, False)
        assert len(worth.asked) == before + 4
        assert any(str(network.rows) in words for words in json.loads(kept.read_text())["ran"])


@pytest.fixture
def rivals(monkeypatch, tmp_path):
    """The script with three methods, whose commands are listed and leave what theirs leave."""
    module, asked = imported("rivals_results"), []
    contest = dataclasses.replace(
        module.NETWORKS["resnet18"], methods="erase pca cir", whole="--attackers adam"
    )
    monkeypatch.setitem(module.NETWORKS, "resnet18", contest)

    def command(words, out):
        if (out / "made.json").exists():
            return out
        asked.append(words)
        seed = int(words.split("--seed ")[1].split()[0])
        if words.startswith("erase"):
            ceilings = {"erase": 0.60, "pca": 0.61 + 0.01 * seed}
            ceilings |= {"cir": 0.8} if seed else {}  # on the first seed it finds no network
            told = {
                "before": {"fresh": 0.92, "leak": {"ceiling": 0.9}},
                "points": [
                    {"method": of, "fresh": 0.91, "leak": {"ceiling": c}, "seconds": 60.0}
                    for of, c in ceilings.items()
                ],
                "failures": {} if seed else {"cir-0.005": "it loses too much"},
                "unaided": {"least_squares": 0.3 + 0.01 * seed},
            }
        else:
            weak = "releases/erase" not in words
            attack = {"attacker": "adam", "start": "plain", "accuracy": 0.5, "loss": 1.25}
            of = {**attack, "steps": 2 if weak else "inf", "seconds": 0.5 if weak else "inf"}
            nets = {"release": [of]} | ({} if "--no-scratch" in words else {"scratch": [of]})
            told = {"runs": [{"target": 0.8, "attacks": nets}]}
        out.mkdir(parents=True)
        (out / f"{words.split()[0]}.json").write_text(json.dumps(told))
        (out / "made.json").write_text(json.dumps({"commit": f"abc{seed}", "seconds": 2.0}))
        return out

    monkeypatch.setattr(module, "command", command)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    module.asked = asked
    return module


def test_rivals_are_told_by_seed_and_by_pairs(rivals, tmp_path):
    contest = rivals.NETWORKS["resnet18"]

    def units(work):
        return [
            rivals.measured(contest, s, tmp_path / work / str(s), tmp_path / f"seed-{s}.json")
            for s in range(3)
        ]

    first = units("here")
    # One makes a seed's networks; heads of all; with seed 0 all of the network and of erasure's.
    assert len(rivals.asked) == len(set(rivals.asked)) == 3 * (1 + 4) - 1 + 2
    assert units("elsewhere") == first  # from the kept files alone
    told = "\n".join(rivals.section("resnet18", contest, first))
    # Differences of 1, 2 and 3 points: 2 +- 4.303 / sqrt 3, by the table of Student's t.
    assert "| principal components | 1.00 | 62.0 % | +2.0 [-0.5, +4.5] | 2, 2, 2 | adam |" in told
    assert "| erasure | 1.00 | 60.0 % |  | inf (1.25), inf (1.25), inf (1.25) | adam |" in told
    assert "| no network | | 31.0 % | | | | | | | | |\n" in told
    assert "Within the tolerance they find no network on some seeds or any: like CIR." in told
    drawn = (tmp_path / "docs" / "images" / "rivals-resnet18.svg").read_text()
    for text in (
        "as it is",
        "erasure",
        "principal components",
        "like CIR",
        "no network",
        "ceiling over all cuts",
    ):
        assert text in drawn
    assert "commit abc0 and abc1 and abc2, seeds 0 to 2, 32 s of computing" in told


def test_rivals_by_other_commands_are_measured_anew(rivals, tmp_path):
    contest, kept = rivals.NETWORKS["resnet18"], tmp_path / "seed-0.json"
    rivals.measured(contest, 0, tmp_path / "work", kept)
    before = len(rivals.asked)
    few = dataclasses.replace(contest, heads="--attackers lstsq")
    assert rivals.measured(few, 0, tmp_path / "few", kept)["how"][1].endswith("lstsq")
    assert len(rivals.asked) > before
