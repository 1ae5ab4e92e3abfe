"""What masks hide is never read, however deep in lists the masked rows stand."""

import numpy as np
import pytest

import immucond as ic

ROWS = np.array([[1.0, 2.0, 1e3], [3.0, 2.0, 1.0], [0.0, 5.0, 2.0], [0.0, 1.0, 7.0]])
HIDDEN = [np.ma.masked_greater(row, 100.0) for row in ROWS]
Y = [1.0, 0.0, 2.0, 5.0]
SQUARE = [np.ma.masked_greater(row, 100.0) for row in ROWS.T @ ROWS]


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("S", lambda: ic.extreme_pairs([ROWS.tolist(), HIDDEN])),
        ("H", lambda: ic.psd_extreme_pairs([np.eye(3).tolist(), SQUARE])),
        ("Z", lambda: ic.feature_extreme_pairs((ROWS.tolist(), tuple(HIDDEN)))),
        ("S", lambda: ic.r_well([ROWS.tolist(), HIDDEN])),
        ("Z", lambda: ic.linear.alignment(HIDDEN, Y)),
        ("Z", lambda: ic.linear.alignment(tuple(HIDDEN), Y)),
        ("K", lambda: ic.linear.alignment(K=SQUARE, b=np.ones(3))),
        ("X_H", lambda: ic.linear.fade(ROWS, HIDDEN, Y)),
        (r"X_H\[1\]", lambda: ic.linear.fade(ROWS, [ROWS, HIDDEN], [Y, Y])),
        (r"K_P\[1\]", lambda: ic.linear.joint_extractor([np.eye(3), SQUARE], np.eye(3))),
        ("Y", lambda: ic.linear.alignment(ROWS, ["a", np.ma.masked, "b", "b"])),
        ("Y", lambda: ic.linear.alignment(ROWS, [np.ma.masked_equal(1, 1), 0, 2, 5])),
        ("S", lambda: ic.extreme_pairs([[1.0, np.ma.masked], [2.0, 3.0]])),
        (
            "ridge",
            lambda: ic.immunize.published(ROWS, Y, ROWS, ridge=np.ma.masked_equal([1.0, 2.0], 2.0)),
        ),
    ],
)
def test_rows_that_are_masked_are_refused(name, call):
    with pytest.raises(TypeError, match=f"^{name} is a masked array"):
        call()


def test_lists_that_form_no_array_are_told_by_name():
    for call, name in (
        (lambda: ic.linear.alignment([[1, 2], [3]], [0, 1]), "Z"),
        (lambda: ic.linear.alignment(K=[[1, 2], [3]], b=[0, 1]), "K"),
    ):
        with pytest.raises(ValueError, match=f"^{name} does not form an array"):
            call()
    endless = [1.0]
    endless.append(endless)
    with pytest.raises(TypeError, match=r"^S does not form an array"):
        ic.extreme_pairs(endless)
