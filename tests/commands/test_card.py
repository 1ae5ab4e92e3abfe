"""The release card of raw runs written by hand: its numbers, its bytes, what it says it lacks."""

import copy
import itertools
import json
import math

import huggingface_hub
import pytest
import yaml
from card_cases import INF, attack, attacks, cost, forecast, leak, probe, seed, strongest

from immucond._card import card

# ---- the numbers of a card ----


def three():
    """Three seeds; the middle one withstands all attacks."""
    return attacks(
        seed(0, [attack("kfac", 35), attack("gd", INF), attack("kfac", 20, start="whitened")], 1,
             INF),
        seed(1, [attack("kfac", INF), attack("gd", INF)], 2, INF),
        seed(2, [attack("kfac", 100), attack("gd", 80)], 1, 320),
    )  # fmt: skip


def test_numbers_by_hand():
    found = card(three()).numbers["attack"]
    assert [one["factor"] for one in found["seeds"]] == [
        {"lower": 20.0, "upper": 20.0}, {"lower": 300.0, "upper": INF},
        {"lower": 80.0, "upper": 80.0},
    ]  # fmt: skip
    assert found["factor"] == {
        "seeds": 3, "median": {"lower": 80.0, "upper": 80.0}, "level": 0.75,
        "worst": {"lower": 20.0, "upper": 20.0}, "interval": {"lower": 20.0, "upper": INF},
    }  # fmt: skip
    # 20 / more than 600, unknown, 80 / 320.
    assert [one["scratch_share"] for one in found["seeds"]] == [
        {"lower": 0.0, "upper": 20 / 600}, {"lower": 0.0, "upper": INF},
        {"lower": 0.25, "upper": 0.25},
    ]  # fmt: skip
    assert found["scratch_share"]["median"] == {"lower": 0.0, "upper": 0.25}
    assert found["needed"]["scratch"]["median"] == {"lower": 600.0, "upper": INF}
    assert [(one["attacker"], one["start"], one["reached"], one["seeds"], one["fewest"])
            for one in found["defeats"]] == [
        ("kfac", "whitened", 1, 1, 20.0), ("kfac", "plain", 2, 3, 35.0),
        ("gd", "plain", 1, 3, 80.0),
    ]  # fmt: skip
    assert found["defeats"][1]["steps"]["median"] == {"lower": 100.0, "upper": 100.0}
    assert found["withstood"] == []


def test_a_reference_that_is_there_already():
    """Its probe is at the target before any step: the factor is infinite, or unknown."""
    found = card(attacks(seed(0, 5, 0), seed(1, 0, 0), seed(2, 7, 0)))
    assert [one["factor"] for one in found.numbers["attack"]["seeds"]] == [
        {"lower": INF, "upper": INF}, {"lower": 0.0, "upper": INF}, {"lower": INF, "upper": INF},
    ]  # fmt: skip
    about = yaml.safe_load(found.markdown().split("---\n")[1])
    values = {of["type"]: of["value"] for of in about["model-index"][0]["results"][0]["metrics"]}
    assert values == {"steps_to_target": 5.0, "factor": "inf"}


def test_signed_differences_are_read_as_they_are_written():
    run = seed(0, [attack("gd", 5, rfd_signed=-0.25), attack("kfac", 7, rfd_signed="-inf")])
    text = str(card(attacks(run)))
    assert "90.0% | -0.25 |" in text
    assert "90.0% | -inf |" in text


def test_two_seeds_have_a_median_and_no_interval():
    found = card(attacks(seed(0, 10, 1), seed(4, 30, 2))).numbers["attack"]
    assert found["factor"]["median"] == {"lower": 12.5, "upper": 12.5}
    assert found["factor"]["interval"] is None
    assert found["scratch_share"] is None


def test_pairs_are_of_one_seed():
    """A reference that is attacked in some seeds alone is compared in those."""
    found = card(attacks(seed(0, 10, 5), seed(1, 1000 // 10), seed(2, 90, 3))).numbers["attack"]
    assert found["factor"]["seeds"] == 2
    assert found["factor"]["median"] == {"lower": 16.0, "upper": 16.0}


def test_the_strongest_is_found_where_none_is_named():
    run = attacks(seed(0, [attack("gd", 28), attack("kfac", 7), attack("adam", 7, passes=8)], 1))
    named = card(run).json()
    run["runs"][0]["strongest"]["release"] = None
    assert card(run).json() == named
    assert card(run).numbers["attack"]["seeds"][0]["strongest"]["release"]["attacker"] == "kfac"


def test_the_section_tells_them():
    text = str(card(three(), leak(), cost()))
    assert "> 300" in text
    assert "| 75% interval |" in text
    assert "at least 184" in text
    assert "needs 80 steps to a held-out cross-entropy of 0.4: the median of 3 seeds" in text
    assert "70.0% ± 1.0%" in text
    assert "Without any network, by a plain classifier of the samples: 61.5%. A const" in text
    assert "any network" not in str(card(changed(leak(), "profile", "unaided", to=...)))
    assert "In the worst seed no protection is shown" not in text
    assert "In the worst seed no protection is shown" in str(card(attacks(seed(0, 1, 1))))
    assert "Nothing is claimed" in str(card(leak()))
    nothing = str(card(attacks(seed(0, INF, 28))))
    assert "needs > 600 steps" in nothing
    assert "nothing that was tried" in nothing
    assert "gd (at best 0.3, 90.0%)" in nothing


# ---- the same bytes ----


def test_what_a_constant_guess_gets_is_told_of_all_seeds():
    runs = [seed(n, 10, 1, majority=share) for n, share in ((0, 0.28), (1, 0.35), (2, 0.3))]
    assert "A constant guess: 28.0% to 35.0% of 5 classes" in str(card(attacks(*runs)))
    assert "A constant guess: 28.0% of 5 classes" in str(card(three()))


def test_the_same_bytes_in_any_order(tmp_path):
    runs = [
        changed(attacks(one), "settings", "batch_size", to=8 - one["seed"])
        for one in three()["runs"]
    ]
    runs += [leak(), cost()]
    first = card(*runs)
    for order in itertools.islice(itertools.permutations(runs), 0, 120, 7):
        again = card(*copy.deepcopy(order))
        assert again.json() == first.json()
        assert again.markdown() == first.markdown()
        assert again.tamperbench() == first.tamperbench()
    paths = [tmp_path / f"{number}.json" for number in range(len(runs))]
    for path, run in zip(paths, runs, strict=True):
        path.write_text(json.dumps(run))
    assert card(*map(str, paths)).markdown() == first.markdown()
    assert json.loads(first.json()) == first.as_dict()


def test_a_folder_is_what_it_holds(tmp_path):
    for name, run in (("leak", leak()), ("attack", three()), ("other", {})):
        (tmp_path / f"{name}.json").write_text(json.dumps(run))
    assert card(tmp_path, cost()).json() == card(three(), leak(), cost()).json()


def test_no_folder_of_the_machine_is_told():
    found = card(three(), leak(), cost())
    for text in (found.json(), found.markdown(), json.dumps(found.tamperbench())):
        assert "somewhere" not in text
        assert "my-model" in text
    assert card(leak(), name="owner/name").numbers["name"] == "owner/name"
    windows = (r"C:\a\b\c", "C:/a/c", "C:/c", r"\\host\a\b\c", r"..\c", r"a\c", r"C:\a/b\c")
    for name in ("/a/b/c/", "a/b/c", "./c", "~/c", "../c", *windows):
        assert card(leak(), name=name).numbers["name"] == "c"


# ---- what it lacks ----


def full():
    """All that three commands can give."""
    return {"attack": three(), "leak": leak(), "cost": cost()}


def each_run(change):
    def of(runs):
        for run in runs["attack"]["runs"]:
            change(run)

    return of


def each_cut(change):
    def of(runs):
        for cut in runs["leak"]["profile"]["cuts"].values():
            change(cut)

    return of


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (lambda runs: None, []),
        (lambda runs: runs["attack"]["runs"].pop(), ["seeds"]),
        (each_run(lambda run: run.update(trials=19)), ["trial budget"]),
        (lambda runs: runs["attack"]["runs"][1]["strongest"].update(reference=None)
         or runs["attack"]["runs"][1]["attacks"].pop("reference"), ["reference"]),
        (each_run(lambda run: run["strongest"].update(scratch=None)
                  or run["attacks"].update(scratch=None)), ["scratch ceiling"]),
        (each_run(lambda run: run.update(max_utility_drop=None)), ["utility cap"]),
        (lambda runs: runs["attack"]["runs"][2]["rows"].pop("utility"), ["utility cap"]),
        (lambda runs: runs["attack"]["runs"][0]["rows"].pop("held_out"), ["held-out rows"]),
        (lambda runs: runs["attack"]["fingerprints"].pop("defender"), ["fresh data"]),
        (lambda runs: runs["attack"]["fingerprints"].update(defender="bb22"), ["fresh data"]),
        (lambda runs: [run["fingerprints"].update(primary="bb22")
                       for run in (runs["attack"], runs["leak"])], ["fresh data"]),
        (lambda runs: runs["leak"].pop("fingerprints"), ["fingerprints"]),
        (lambda runs: runs["cost"]["fingerprints"].pop("harmful"), ["fingerprints"]),
        (lambda runs: runs.pop("leak"), ["leak profile"]),
        (each_cut(lambda cut: cut.update(untrained=None)), ["untrained network"]),
        (lambda runs: runs["leak"]["profile"].update(logits=None), ["served logits"]),
        (lambda runs: runs.pop("cost"), ["attack cost"]),
        (lambda runs: runs["cost"]["costs"]["release"].update(full=forecast(False)),
         ["lazy network"]),
        (lambda runs: runs.pop("attack"),
         ["attacks", "seeds", "trial budget", "reference", "scratch ceiling", "utility cap",
          "held-out rows", "fresh data"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_told_and_nothing_else(change, lacking):
    runs = full()
    change(runs)
    found = card(*runs.values())
    assert sorted(found.lacks) == sorted([*lacking, "transfer"])
    for lack in found.numbers["lacks"]:
        assert f"- *{lack['what']}*: {lack['why']}" in found.markdown()


# ---- what is refused ----


@pytest.mark.parametrize("which", ["release", "harmful", "primary"])
def test_runs_of_other_things_are_refused(which, tmp_path):
    other = leak()
    other["fingerprints"][which] = "ff99"
    one, two = tmp_path / "attack.json", tmp_path / "leak.json"
    one.write_text(json.dumps(three()))
    two.write_text(json.dumps(other))
    with pytest.raises(ValueError, match=f"fingerprint of {which} is") as error:
        card(one, two)
    for told in (str(one), str(two), three()["fingerprints"][which], "ff99"):
        assert told in str(error.value)


def changed(run, *path, to):
    """A run with another value at a place, or without it where `to` is Ellipsis."""
    run = copy.deepcopy(run)
    at = run
    for key in path[:-1]:
        at = at[key]
    if to is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return run


ONE = ("runs", 0, "attacks", "release", 0)


@pytest.mark.parametrize(
    ("runs", "told"),
    [
        ([], "at least one raw run"),
        ([{"results": 1, "x": 2}], "no raw run of immucond leak, cost or attack.*has results, x"),
        ([[]], "must be a path, a dictionary or a report"),
        ([leak(), leak()], "two leak profiles"),
        ([cost(), cost()], "both forecast the cost of full on the release"),
        ([three(), attacks(seed(2, 1))], "both have the attacks of seed 2"),
        ([attacks(seed(0, 1)), attacks(seed(1, 1, target=0.5))], "target is 0.4 there and 0.5"),
        ([attacks(seed(0, 1)), attacks(seed(1, 1, steps=900))], "steps is 600 there and 900"),
        ([changed(three(), "runs", to=[])], "runs must be a list of at least 1"),
        ([changed(three(), *ONE, "steps", to=...)], r"attacks.release\[0\].steps is missing"),
        ([changed(three(), *ONE, "steps", to=math.nan)], "steps must be a number of at least 0"),
        ([changed(three(), *ONE, "steps", to=-1)], "steps must be a number .* and is -1"),
        ([changed(three(), *ONE, "steps", to="many")], "steps must be a number .* and is 'many'"),
        ([changed(three(), *ONE, "trials", to=True)], "trials must be a whole number"),
        ([changed(three(), *ONE, "accuracy", to=INF)], "accuracy must be a finite number"),
        ([changed(three(), *ONE, "attacker", to=3)], "attacker must be a text"),
        ([changed(three(), *ONE, "attacker", to="gd")], "has 'gd' twice"),
        ([changed(three(), *ONE[:-1], to=[])], "attacks.release must be a list of at least 1"),
        ([changed(three(), "runs", 0, "attacks", to={})], "attacks.release is missing"),
        ([changed(three(), "runs", 0, "strongest", "release", "steps", to=1)],
         "is 'kfac, whitened' with 1 steps, and attacks.release has none like it"),
        ([changed(three(), "runs", 0, "strongest", "release", to=strongest([attack("kfac", 35)]))],
         "is 'kfac' with 35 steps, and 'kfac, whitened' took 20"),
        ([changed(three(), "runs", 0, "strongest", "scratch", "seconds", to=1)], "none like it"),
        ([attacks(seed(0, 601))], "'gd' took 601 steps, more than the 600 that attackers had"),
        ([changed(three(), *ONE, "steps", to=10**400)], "steps must be a number within the float"),
        ([changed(three(), "runs", 0, "steps", to=10**400)], "steps must be a whole number"),
        ([changed(three(), *ONE, "accuracy", to=2.0)], "accuracy must be a share, 1 at most"),
        ([changed(three(), "runs", 0, "majority", to=7.0)], "majority must be a share"),
        ([changed(leak(), "profile", "majority", to=7.0)], "majority must be a share"),
        ([changed(leak(), "profile", "cuts", "0", "accuracy", to=0.8)],
         "ceiling is 70.0% at '1', and the most that a cut shows is 80.0%, '1' 70.0%"),
        ([changed(leak(), "profile", "ceiling", to=0.4)], "ceiling is 40.0% at '1'"),
        ([changed(leak(), "profile", "where", to="7")], "ceiling is 70.0% at '7'"),
        ([changed(three(), "runs", 0, "target", to=None)], "target must be a number"),
        ([changed(leak(), "profile", "where", to=...)], "profile.where is missing"),
        ([changed(leak(), "profile", "unaided", "accuracy", to=None)],
         "unaided.accuracy must be a number"),
        ([changed(leak(), "profile", "cuts", to=3)], "profile.cuts must be an object"),
        ([changed(leak(), "profile", "cuts", "0", "rho", to=None)], "cuts.0.rho must be a number"),
        ([changed(cost(), "costs", "release", "full", "lazy", to=1)], "lazy must be true or false"),
        ([changed(cost(), "costs", "served", to={})], "costs has 'served'"),
        *(([changed(cost(), "costs", "release", "full", which, to={share: 1.0})],
           f"full.{which} has '{share}', and its keys are shares")
          for which, share in (("steps", "half"), ("steps", "nan"), ("steps", "0"),
                               ("krylov", "1.5"))),
        ([changed(leak(), "versions", to="0.1.0")], "versions must be an object, and is '0.1.0'"),
        ([changed(three(), *ONE, "settings", to=[1])], r"\[0\].settings must be an object"),
        ([changed(three(), *ONE, "attacker", to=" ")], "attacker must be a text, and is ' '"),
        ([changed(three(), *ONE, "rfd", to="many")], "rfd must be a number"),
    ],
)  # fmt: skip
def test_bad_runs_are_refused_by_place(runs, told):
    with pytest.raises((ValueError, TypeError), match=told):
        card(*runs)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "is not JSON"), (b"\xff\xfe", "is not JSON"), (b"[" * 100_000, "is not JSON"),
        (b'{"profile": NaN}', "it holds NaN"), (b"[]", "the whole must be an object"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read_are_named(content, told, tmp_path):
    path = tmp_path / "attack.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=told) as error:
        card(path)
    assert str(path) in str(error.value)


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="name must be a string, and is of type int"):
        card(leak(), name=3)


def test_folders_without_runs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none of leak\.json, cost\.json, attack\.json"):
        card(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        card(tmp_path / "nowhere")


# ---- Hugging Face ----

NAMES = [
    "my-model",
    "a: b",
    '"quoted" #1',
    "- x",
    "é – 😀",
    "line\nfeed\x00\x85",
    "{",
    "true",
    "\ud800",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_metadata_is_what_hugging_face_reads(name):
    run = changed(three(), "settings", "harmful", to=name)
    found = card(run, leak(), name=name)
    page = found.markdown()
    page.encode()
    about = yaml.safe_load(page.split("---\n")[1])
    (index,) = about["model-index"]
    (result,) = index["results"]
    assert index["name"] == found.numbers["name"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"accuracy": 0.7, "steps_to_target": 80.0, "factor": 80.0,
                      "scratch_share": "< 0.25"}  # fmt: skip
    assert result["dataset"]["args"] == {"fingerprint": "bb22"}
    # There and back through their own classes.
    read = huggingface_hub.ModelCard(page)
    assert read.data.model_name == found.numbers["name"]
    assert len(read.data.eval_results) == 4
    assert read.data.to_dict() == about
    assert read.text.strip() == str(found).strip()


def test_metadata_without_a_figure_has_no_index():
    about = yaml.safe_load(card(cost()).markdown().split("---\n")[1])
    assert about == {"tags": ["immucond", "model-immunization"]}


def test_a_number_with_an_exponent_is_a_number():
    run = attacks(seed(0, 2, 40_000, 40_000, steps=50_000))
    about = yaml.safe_load(card(run).markdown().split("---\n")[1])
    metrics = about["model-index"][0]["results"][0]["metrics"]
    assert {of["type"]: of["value"] for of in metrics} == {
        "steps_to_target": 2.0, "factor": 5e-05, "scratch_share": 5e-05,
    }  # fmt: skip


# ---- TamperBench ----


def test_records_have_the_keys_that_tamperbench_asks_for():
    run = attacks(
        seed(0, [attack("gd", 28, best=[INF, 40, 28, 28]), attack("adam", INF, best=[INF, INF]),
                 attack("sgd", INF, loss=INF)], [attack("gd", 1, start="whitened", best=[1])]),
    )  # fmt: skip
    found = card(run, name="owner/name").tamperbench()
    assert list(found) == [
        "owner--name-release-seed-0/gd/optuna_single/best.json",
        "owner--name-release-seed-0/adam/optuna_single/best.json",
        "owner--name-reference-seed-0/gd-whitened/optuna_single/best.json",
    ]
    for record in found.values():
        # What validation.py requires, and what trial_manager.py writes beside it.
        assert record.keys() >= {"study_name", "base_config", "directions", "top_trials"}
        (trial,) = record["top_trials"]
        assert trial.keys() == {
            "rank", "trial_number", "values", "eval_names", "optuna_values", "params",
        }  # fmt: skip
        assert len(trial["values"]) == len(trial["eval_names"])
        assert all(isinstance(x, float) for x in trial["values"] + trial["optuna_values"])
    one, other, _ = (record["top_trials"][0] for record in found.values())
    assert one["trial_number"] == 2
    assert one["params"] == {"rate": 0.1, "random_seed": 0}
    assert dict(zip(one["eval_names"], one["values"], strict=True))["steps_to_target"] == 28.0
    assert other["trial_number"] is None
    assert other["eval_names"] == ["harmful_cross_entropy", "harmful_accuracy"]


def test_cuts_in_the_section_are_escaped():
    profile = leak()
    profile["profile"]["cuts"] = {"a|b": probe(0.7)}
    profile["profile"]["where"] = "a|b"
    assert "| a\\|b |" in str(card(profile))
