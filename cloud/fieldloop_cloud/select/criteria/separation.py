"""Whether classes can be separated by a linear rule, wholly or with some rows on the border.

Then the likelihood has no maximum, and no criterion built on one has a meaning (Albert and
Anderson, Biometrika 71 (1984), 1-10). Found by a linear program (Konis, thesis, Oxford 2007): is
there a direction in which every row lies on its own class's side and some row strictly?
"""

import numpy as np
from numpy.typing import NDArray

_PROBED_ROWS = 400
_POSITIVE = 1e-6
_MAX_CELLS = 2_000_000


def is_separated(X: NDArray[np.float64], y: NDArray[np.int64]) -> bool | None:
    """Look for (quasi-)separation.

    Args:
        X: (n, columns), without the intercept.
        y: Class indices, (n,).

    Returns:
        Whether there is; None where the program would be too large to solve.

    Example:
        >>> X = np.arange(10.0)[:, np.newaxis]
        >>> is_separated(X, (X[:, 0] > 4).astype(int))
        True
    """
    spread = X.std(axis=0)
    design = np.column_stack([np.ones(len(X)), (X - X.mean(axis=0))[:, spread > 0]])
    design[:, 1:] /= spread[spread > 0]
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:  # noqa: PLR2004 - one class is always on its side
        return True
    if len(design) > _PROBED_ROWS and not _some_rows_are(design, codes, len(classes)):
        return False
    if len(design) * (len(classes) - 1) * 2 * design.shape[1] > _MAX_CELLS:
        return None
    return _has_direction(design, codes, len(classes))


def _some_rows_are(design: NDArray[np.float64], codes: NDArray[np.int64], class_count: int) -> bool:
    """Whether a sample is separated; one that spans the space and is not settles the matter."""
    rows = np.random.default_rng(0).permutation(len(design))
    taken = [
        rows[codes[rows] == number][: _PROBED_ROWS // class_count + 2]
        for number in range(class_count)
    ]
    sample = np.concatenate(taken)
    if np.linalg.matrix_rank(design[sample]) < np.linalg.matrix_rank(design):
        return True
    return _has_direction(design[sample], codes[sample], class_count)


def _has_direction(design: NDArray[np.float64], codes: NDArray[np.int64], class_count: int) -> bool:
    from scipy.optimize import linprog  # noqa: PLC0415 - slow to load
    from scipy.sparse import coo_array  # noqa: PLC0415

    count, columns = design.shape
    others = np.asarray(
        [[k for k in range(class_count) if k != own] for own in range(class_count)]
    )[codes]
    lines = np.arange(count * (class_count - 1))
    rows = np.repeat(np.arange(count), class_count - 1)
    cells = design[rows].ravel()
    line = np.repeat(lines, columns)
    place = np.tile(np.arange(columns), len(lines))
    own, other = np.repeat(codes[rows], columns), np.repeat(others.ravel(), columns)
    # (w_own - w_other) x >= 0 in every row, written as A w <= 0.
    matrix = coo_array(
        (
            np.concatenate([-cells, cells]),
            (
                np.concatenate([line, line]),
                np.concatenate([own * columns + place, other * columns + place]),
            ),
        ),
        shape=(len(lines), class_count * columns),
    ).tocsr()
    found = linprog(
        np.asarray(matrix.sum(axis=0)).ravel(),
        A_ub=matrix,
        b_ub=np.zeros(len(lines)),
        bounds=(-1, 1),
        method="highs",
    )
    return bool(found.status == 0 and -found.fun > _POSITIVE * len(lines))
