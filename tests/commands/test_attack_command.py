"""`immucond attack` on tiny networks: what it writes, keeps and goes on with, and refuses."""

import io
import json
import math
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
from deep_cases import WORDS, encoder_folder, reading, release_folder, transformers

from immucond._cli import build_parser, main
from immucond.deep import Attack
from immucond.deep.attacks import Trial, _attackers, _store
from immucond.experiments import deep
from immucond.experiments.deep import _attack

pytestmark = pytest.mark.usefixtures("undrawn")  # `ran` alone is drawn

FILES = ["attack.json", "attack.md", "attack.png", "attack.svg"]
ATTACKERS = ["lstsq", "probe-gd", "adam"]
TARGET = 0.64  # within reach of some


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Networks and tasks: texts, and images."""
    return release_folder(tmp_path_factory.mktemp("attack"))


def release(name, folder, out, *more, backbone="encoder", harmful="others"):
    return [
        name, "--backbone", str(folder / backbone), "--harmful", harmful, "--data-dir", str(folder),
        "--out", str(out), *reading(harmful), "--train-size", "16", *more,
    ]  # fmt: skip


def command(folder, out, *more, **keywords):
    given = ["--attackers", *ATTACKERS, "--trials", "2", "--steps", "4", "--test-size", "12"]
    return release("attack", folder, out, *given, *more, **keywords)


def with_all(folder, out, *more):
    others = ["--primary", "texts", "--reference", str(folder / "encoder")]
    return command(folder, out, *others, "--target", str(TARGET), *more)


IMAGES = ["--image-size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1"]


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    """A run on texts beside a reference and a primary task: its folder, and what it said."""
    out = tmp_path_factory.mktemp("ran") / "out"
    with redirect_stdout(io.StringIO()) as told, redirect_stderr(io.StringIO()) as progress:
        assert main(with_all(folder, out)) == 0
    return out, told.getvalue(), progress.getvalue()


def read(out):
    return json.loads((out / "attack.json").read_text())


def timeless(value):
    """The same without times, which alone may differ from run to run."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k != "seconds"}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def trials_in(place):
    """The trials that a folder keeps, by what they are of."""
    found = {}
    for path in sorted(place.glob("*-[0-9][0-9][0-9].json")):
        told = json.loads(path.read_text())
        network, start, attacker, number = told["trial"]
        found.setdefault((network, attacker, start), []).append(told["result"])
        assert number == len(found[network, attacker, start]) - 1
    return found


def least(values):
    return min(map(float, values))


# ---- what it writes ----


def test_texts_beside_a_reference(ran):
    out, told, progress = ran
    assert sorted(p.name for p in out.iterdir()) == [*FILES, "trials"]
    found = read(out)
    assert found["command"].startswith("immucond attack --backbone ")
    assert {"immucond", "torch", "transformers"} <= found["versions"].keys()
    prints = found["fingerprints"]
    assert prints.keys() == {"release", "reference", "harmful", "primary"}
    assert prints["release"] == prints["reference"]  # it is the same network
    assert prints["harmful"] != prints["primary"]
    assert "Wrote attack.json, attack.md" in told
    for text in ("primary head: 1 of 1", "seed 0, release: 0 of ", "seed 0, scratch: 0 of 2"):
        assert text in progress
    page = (out / "attack.md").read_text()
    alone = found["unaided"]
    assert alone["sees"] == "tf-idf"
    assert f"The same rows give {alone['accuracy']:.1%} without any network" in page
    for text in ("Target 0.64 nats of 2 classes", "16 harmful, 12 held-out, 12 utility", "lstsq"):
        assert text in page
        assert text in " ".join(told.split())
    for name in FILES:
        assert (out / name).stat().st_size > 500


def test_the_numbers_are_those_of_the_trials(ran):
    """Every attack is put together anew of the files that keep its trials."""
    out, _, _ = ran
    [run] = read(out)["runs"]
    assert (run["seed"], run["steps"], run["trials"], run["classes"]) == (0, 4, 2, 2)
    assert run["rows"] == {"harmful": 16, "held_out": 12, "utility": 12}
    assert (run["target"], run["max_utility_drop"]) == (TARGET, 0.1)
    kept, told = trials_in(out / "trials" / "seed-0"), {}
    for network, attacks in run["attacks"].items():
        for attack in attacks:
            told[network, attack["attacker"], attack["start"]] = attack
    assert told.keys() == kept.keys()
    assert {name for _, name, _ in told} == set(ATTACKERS)
    assert {start for _, _, start in told} >= {
        "plain", "equalized", "plain, encoder.embeddings", "plain, encoder.encoder.layer.0",
    }  # fmt: skip
    for name, attack in told.items():
        trials = kept[name]
        assert attack["trials"] == len(trials) <= 2
        assert float(attack["steps"]) == least(t["steps"] for t in trials)
        assert attack["loss"] == least(t["loss"] for t in trials)
        assert attack["settings"] in [t["settings"] for t in trials]
        assert attack["best_so_far"][-1] == attack["steps"]
        reached = [t for t in trials if t["ended"] == "reached"]
        assert all(t["curve"]["loss"][-1] <= TARGET for t in reached)
        assert math.isfinite(float(attack["steps"])) == bool(reached)
    fewest = {
        network: least(attack["steps"] for attack in attacks)
        for network, attacks in run["attacks"].items()
    }
    for network, strongest in run["strongest"].items():
        assert float(strongest["steps"]) == fewest[network] <= 4
    assert run["factor"] == 1.0
    assert run["scratch_share"] == fewest["release"] / fewest["scratch"]
    assert timeless(run["attacks"]["release"]) == [
        {**timeless(attack), "rfd": mine["rfd"], "rfd_signed": mine["rfd_signed"]}
        for attack, mine in zip(run["attacks"]["reference"], run["attacks"]["release"], strict=True)
    ]  # it is the same network


def test_images_of_two_seeds_with_nothing_beside_them(folder, tmp_path, capsys):
    more = [*IMAGES, "--quiet", "--no-scratch", "--seeds", "2", "--seed", "3"]
    arguments = command(folder, tmp_path / "out", *more, backbone="resnet", harmful="marks")
    assert main(arguments) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "Wrote" not in told.out
    found = read(tmp_path / "out")
    assert found["fingerprints"].keys() == {"release", "harmful"}
    assert [run["seed"] for run in found["runs"]] == [3, 4]
    for run in found["runs"]:
        assert run["attacks"].keys() == {"release"}
        assert run["rows"] == {"harmful": 16, "held_out": 12}
        others = ("factor", "scratch_share", "utility", "max_utility_drop")
        assert [run[name] for name in others] == [None] * 4
        assert run["strongest"]["scratch"] is run["strongest"]["reference"] is None
        p = run["majority"]
        entropy = -sum(q * math.log(q) for q in (p, 1.0 - p))
        assert run["target"] == pytest.approx(entropy / 2)  # the default
    one, two = (run["attacks"]["release"] for run in found["runs"])
    assert timeless(one) != timeless(two)  # other rows
    told_of_all = "All seeds have the same rows: there are no more"
    assert told_of_all not in " ".join(told.out.split())
    for sizes, alike in ((["--train-size"], False), (["--train-size", "--test-size"], True)):
        given = [word for size in sizes for word in (size, "600")]
        assert main([*arguments, *given, "--out", str(tmp_path / f"{len(sizes)}")]) == 0
        assert (told_of_all in " ".join(capsys.readouterr().out.split())) is alike


def test_the_function_gives_the_same_and_a_figure_of_what_matters(ran, folder):
    """A fit far above the loss of a constant guess does not squeeze the rest."""
    settings = deep.AttackSettings(
        backbone=str(folder / "encoder"), reference=str(folder / "encoder"), primary="texts",
        harmful="others", data_dir=folder, max_length=10, train_size=16, test_size=12,
        attackers=tuple(ATTACKERS), trials=2, steps=4, target=TARGET,
    )  # fmt: skip
    told = read(ran[0])
    found = deep.attack_release(settings, folder=ran[0] / "trials")
    assert found.as_json(told["command"], told["versions"]) == told  # times too: they are kept
    [report] = found.reports
    assert max(attack.best.loss for attack in report.attacks["release"]) > 10
    [ax] = found.figure().axes
    thick = [report.strongest_of(network).best.curve["loss"] for network in report.attacks]
    bottom, top = ax.get_ylim()
    assert bottom == 0.0
    assert max(map(max, thick)) < top <= 4 * math.log(2)


# ---- a card of real runs ----


def test_leak_cost_and_attack_make_one_card(ran, folder, tmp_path):
    out, _, _ = ran
    for name, more in (
        ("leak", ["--primary", "texts"]),
        ("cost", ["--reference", str(folder / "encoder"), "--products", "6", "--steps", "3"]),
    ):
        assert main(release(name, folder, tmp_path / name, *more, "--quiet")) == 0
    runs = [str(out), str(tmp_path / "leak"), str(tmp_path / "cost" / "cost.json")]
    assert main(["card", *runs, "--out", str(tmp_path / "card"), "--quiet", "--tamperbench"]) == 0
    card, raw = json.loads((tmp_path / "card" / "card.json").read_text()), read(out)
    [run] = raw["runs"]
    lacks = [lack["what"] for lack in card["lacks"]]
    assert not {"attacks", "reference", "scratch ceiling", "utility cap"} & {*lacks}
    assert {"seeds", "trial budget", "transfer"} <= {*lacks}
    for name in ("release", "reference", "harmful", "primary"):
        assert card[name]["fingerprint"] == raw["fingerprints"][name]
    assert card["name"] == "encoder"
    factor = {"lower": run["factor"], "upper": run["factor"]}
    assert card["attack"]["factor"]["median"] == factor
    assert card["attack"]["factor"]["interval"] is None
    steps = run["strongest"]["scratch"]["steps"]
    assert card["attack"]["needed"]["scratch"]["median"] == {"lower": steps, "upper": steps}
    defeats, withstood = card["attack"]["defeats"], card["attack"]["withstood"]
    assert len(defeats) + len(withstood) == len(run["attacks"]["release"])
    assert defeats[0]["fewest"] == run["strongest"]["release"]["steps"]
    assert card["leak"] is not None
    assert {cost["network"] for cost in card["cost"]} == {"release", "reference"}
    page = (tmp_path / "card" / "card.md").read_text()
    assert str(folder) not in page + json.dumps(card)
    records = json.loads((tmp_path / "card" / "tamperbench.json").read_text())
    assert len(records) == sum(map(len, run["attacks"].values()))


def test_attacks_on_another_network_make_no_card(ran, folder, tmp_path, capsys):
    encoder_folder(tmp_path / "other", 20)
    given = ["--primary", "texts", "--quiet", "--no-untrained"]
    words = release("leak", tmp_path, tmp_path / "leak", *given, backbone="other")
    words[words.index("--data-dir") + 1] = str(folder)
    assert main(words) == 0
    capsys.readouterr()
    assert main(["card", str(ran[0]), str(tmp_path / "leak"), "--out", str(tmp_path / "c")]) == 2
    assert "the fingerprint of release is" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


# ---- an interrupted run ----


def test_an_interrupted_run_goes_on(ran, folder, tmp_path, capsys, monkeypatch):
    out, done = tmp_path / "out", []
    put = _store.Store.put

    def counted(self, *given):
        if len(done) == stop:
            raise KeyboardInterrupt
        done.append(given[1:])
        return put(self, *given)

    monkeypatch.setattr(_store.Store, "put", counted)
    stop = 5
    assert main(with_all(folder, out, "--quiet")) == 130
    assert capsys.readouterr().err.endswith("immucond attack: interrupted\n")
    assert [p.name for p in out.iterdir()] == ["trials"]
    kept = {p: p.read_bytes() for p in (out / "trials" / "seed-0").iterdir()}
    assert sum(map(len, trials_in(out / "trials" / "seed-0").values())) == 5
    stop = None
    assert main(with_all(folder, out, "--quiet")) == 0
    assert {p: p.read_bytes() for p in kept} == kept
    assert len(done) == len({*done})  # none was tried again
    assert timeless(read(out)["runs"]) == timeless(read(ran[0])["runs"])
    count = len(done)
    assert main(with_all(folder, out, "--quiet")) == 0
    assert len(done) == count


def test_the_folder_of_another_run_is_refused(ran, folder, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(ran[0], out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for more, told in (
        (["--steps", "3"], "steps"),
        (["--no-scratch"], "networks"),
        (["--train-size", "15"], "task"),
    ):
        assert main(with_all(folder, out, "--quiet", *more)) == 2
        error = capsys.readouterr().err
        assert error.startswith("immucond attack: error: ")
        assert error.count("\n") == 1
        assert told in error
        assert "Give another folder, or remove it" in error
        assert str(out / "trials" / "seed-0") in error
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_a_broken_trial_is_told(ran, folder, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(ran[0], out)
    broken = out / "trials" / "seed-0" / "release-plain-lstsq-000.json"
    broken.write_text(broken.read_text()[:-20])
    assert main(with_all(folder, out, "--quiet")) == 2
    assert f"{broken} is not a trial of this run: remove it" in capsys.readouterr().err


# ---- what is refused ----


@pytest.mark.parametrize("words", ["train plane", "soup recipe"])
def test_a_reference_that_reads_otherwise(folder, tmp_path, capsys, words):
    """Two words of its vocabulary stand in each other's place, wherever they occur."""
    other = encoder_folder(tmp_path / "other")
    vocabulary, (one, two) = (folder / "encoder" / "vocab.txt").read_text(), words.split()
    assert {one, two} <= {*" ".join(WORDS.values()).split()}
    swapped = vocabulary.replace(one, "*").replace(two, one).replace("*", two)
    (tmp_path / "vocab.txt").write_text(swapped)
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(other)
    assert main(command(folder, tmp_path / "out", "--reference", str(other), "--quiet")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "the reference must read inputs as the release does" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--attackers", "sgd"], "one is 'sgd'"),
        (["--attackers", "adam", "standard"], "one is 'standard'"),
        (["--attackers", "lora-0"], "one is 'lora-0'"),
        (["--attackers", "dora-65537"], "rank of 'dora-65537' must be at most 65536"),
        (["--backbone", "{folder}/absent"], "absent"),
        (["--reference", "{folder}/absent"], "absent"),
        (["--harmful", "missing"], "--harmful: no data set 'missing'"),
        (["--primary", "missing"], "--primary: no data set 'missing'"),
        (["--train-size", "2"], "the 2 training samples of others have none of the class "),
        (["--primary", "shapes"], "of one kind"),
        (["--data-dir", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_told_in_one_line(folder, tmp_path, capsys, more, told):
    more = [word.format(folder=folder) for word in more]
    assert main(command(folder, tmp_path / "out", "--quiet", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("immucond attack: error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "more",
    [
        ["--steps", "0"], ["--trials", "0"], ["--seeds", "0"], ["--target", "nan"],
        ["--max-utility-drop", "-0.1"], ["--attackers"],
    ],
)  # fmt: skip
def test_values_out_of_range_are_told_with_their_option(folder, tmp_path, capsys, more):
    with pytest.raises(SystemExit) as error:
        main(command(folder, tmp_path / "out", *more))
    assert error.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"immucond attack: error: argument {more[0]}: ")
    assert not (tmp_path / "out").exists()


def test_the_command_offers_what_the_library_knows():
    words = ["attack", "--backbone", "x", "--harmful", "y"]
    args = vars(build_parser().parse_args(words))
    for field in fields(deep.AttackSettings):
        if field.name not in ("backbone", "harmful"):
            given = args.get(field.name, field.default)
            given = tuple(given) if isinstance(given, list) else given
            assert given == field.default, field.name
    parser = args["parser"]
    [told] = [a.help for a in parser._actions if a.dest == "attackers"]
    for name in {*_attackers.RULES, *_attackers.STANDARD}:
        assert name.removeprefix("probe-") in told


def test_a_row_of_the_table_is_medians_over_seeds():
    """Of the best trials; of losses the least of any, and of trials all."""

    def attack(start, *trials):
        return Attack("adam", start, tuple(
            Trial({}, steps, 2 * steps, 3 * steps, loss, accuracy, "reached")
            for steps, loss, accuracy in trials
        ))  # fmt: skip

    found = _attack._cells([
        attack("plain, 1", (3.0, 0.5, 0.6), (math.inf, 0.25, 0.9)),
        attack("plain, 2", (11.0, 0.3, 0.7)),
        attack("plain, 1", (math.inf, 0.75, 0.5), (math.inf, 0.8, 0.95)),
    ])  # fmt: skip
    assert found == ["plain, 1, plain, 2", "11", "22", "33", "0.3", "60.0%", "5"]


@pytest.mark.parametrize(
    ("release", "other", "told"),
    [
        (4.0, 2.0, "2"),
        (np.inf, 2.0, "> 150"),
        (4.0, np.inf, "< 0.0133"),
        (np.inf, np.inf, "unknown"),
    ],
)
def test_who_never_got_there_bounds_a_ratio(release, other, told):
    """With 300 steps allowed, the ratio of one who needs more is a bound."""

    def attacks(steps):
        return (SimpleNamespace(steps=steps),)

    def ratio():
        if np.isinf(release) and np.isinf(other):
            return None
        return release / other

    report = SimpleNamespace(
        factor=ratio(), scratch_share=ratio(), steps=300, strongest=attacks(release)[0],
        strongest_of=lambda _: attacks(other)[0],
    )  # fmt: skip
    for name in ("factor", "scratch_share"):
        assert _attack._ratio(report, name) == told
