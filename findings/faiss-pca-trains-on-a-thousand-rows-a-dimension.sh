#!/usr/bin/env bash
# faiss.PCAMatrix.train: of more than 1,000 rows a dimension, a random part is read.
#
# Package:  faiss-cpu 1.15.1 (with numpy), from PyPI.
# Run:      bash faiss-pca-trains-on-a-thousand-rows-a-dimension.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "Applies a principal component analysis on a set of vectors"; train: "n: nb of training
#           vectors"; max_points_per_d: "ratio between # training vectors and dimension", which says
#           of no limit.
# Expected: the principal axes and the mean of the rows that were given.
# Seen:     those of a sample of 1,000 * d of them (`max_points_per_d`), without a line unless
#           `verbose` is set. Where variances lie close together, the axes differ from the exact
#           ones, and the mean does, too. With `max_points_per_d` raised to the number of rows both
#           are exact.
# Matters:  k-means has a limit of its own (`max_points_per_centroid`), which those who cluster
#           logits of few classes know and raise; before it, a PCA of ten columns silently leaves
#           out four fifths of 50,000 predictions.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    faiss-cpu==1.15.1 numpy==2.4.1 || exit 2

cat > "$folder/check.py" <<'PYTHON_END'
import sys

import faiss
import numpy as np

ROWS, DIM = 50_000, 10
faiss.omp_set_num_threads(1)
draws = np.random.default_rng(0)
scales = np.linspace(1.0, 1.1, DIM)
rows = (scales * draws.normal(size=(ROWS, DIM))).astype(np.float32)
exact_mean = rows.mean(0, dtype=np.float64)
values, vectors = np.linalg.eigh(np.cov(rows.astype(np.float64).T))
exact = vectors[:, ::-1].T


def trained(limit=None):
    pca = faiss.PCAMatrix(DIM, DIM)
    default = pca.max_points_per_d
    if limit is not None:
        pca.max_points_per_d = limit
    pca.train(rows)
    axes = faiss.vector_to_array(pca.PCAMat).reshape(DIM, DIM)
    agreement = np.abs((axes * exact).sum(1))
    error = np.abs(faiss.vector_to_array(pca.mean) - exact_mean).max()
    return default, float(agreement.min()), float(error)


default, agreement, error = trained()
_, agreement_all, error_all = trained(limit=ROWS)
print("faiss", faiss.__version__, "numpy", np.__version__)
print(f"{ROWS} rows of {DIM}; max_points_per_d = {default} by default")
print("expected: |cosine| of each axis to the exact one about 1, error of the mean about 0")
print(f"seen:     least |cosine| {agreement:.4f}, error of the mean {error:.1e}")
print(f"with max_points_per_d={ROWS}: {agreement_all:.6f}, {error_all:.1e}")
as_stated = (
    default == 1000
    and agreement < 0.99
    and error > 1e-4
    and agreement_all > 0.9999
    and error_all < 1e-5
)
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
sys.exit(0 if as_stated else 1)
PYTHON_END
"$folder/venv/bin/python" "$folder/check.py"
