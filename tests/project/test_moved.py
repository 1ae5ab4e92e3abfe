"""Names that moved: each old one still leads to the new one, and says so."""

import warnings

import pytest

import immucond
from immucond._moved import moved

ict = pytest.importorskip("immucond.torch", reason="the extra torch is not installed")
icd = pytest.importorskip("immucond.deep", reason="the extra torch is not installed")
ALIASES = [(ict, name, home) for name, home in ict._MOVED.items()]


@pytest.mark.parametrize(("module", "name", "home"), ALIASES)
def test_every_alias_warns_with_the_new_name_and_the_version_of_its_removal(module, name, home):
    new = home.replace(":", ".")
    message = rf"^{module.__name__}\.{name} is {new} now; the old name goes in version 0\.4\.0$"
    with pytest.warns(DeprecationWarning, match=message) as caught:
        found = getattr(module, name)
    assert found is getattr(icd, name)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match=message) as caught:
        exec(compile(f"from {module.__name__} import {name} as again", __file__, "exec"))
    assert {warning.filename for warning in caught} == {__file__}


@pytest.mark.parametrize("module", [ict])
def test_old_names_are_neither_listed_nor_star_imported(module):
    assert not {name for _, name, _ in ALIASES} & {*module.__all__, *dir(module)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(f"from {module.__name__} import *", {})


def test_what_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"'immucond\.torch' has no attribute 'nothing'"):
        _ = ict.nothing


def test_a_name_may_change_on_the_way():
    old = moved("old", {"ratio": "immucond:condition_number"}, removed_in="9.0")
    with pytest.warns(DeprecationWarning, match=r"old\.ratio is immucond\.condition_number now"):
        assert old("ratio") is immucond.condition_number
