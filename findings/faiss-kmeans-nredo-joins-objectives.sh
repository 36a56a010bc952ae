#!/usr/bin/env bash
# faiss.Kmeans with nredo > 1: `obj` is not the objective of the run that is kept.
#
# Package:  faiss-cpu 1.15.1 (with numpy), from PyPI.
# Run:      bash faiss-kmeans-nredo-joins-objectives.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Docs:     "nredo: redo clustering this many times and keep best"; Kmeans.train: "the objective
#           value at each iteration is in the array obj (size `niter`)".
# Expected: at most `niter` values, those of the run whose centroids are kept; within a run of
#           Lloyd's algorithm they never rise.
# Seen:     the values of all runs up to the one that is kept, one run after another: more than
#           `niter` of them, with a jump upwards where the next run starts. Its first values are
#           those of the first run, which was thrown away. The centroids are right: the objective
#           over them is the last value.
# Matters:  a plot or a log of `obj` shows a k-means that gets worse, and obj[:niter] belongs to
#           centroids that nobody has. Restarting by hand, with a seed a run, avoids it.
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

NITER, SEED = 8, 1
faiss.omp_set_num_threads(1)
draws = np.random.default_rng(0)
centres = 10 * draws.normal(size=(8, 4))
rows = centres.repeat(60, axis=0) + draws.normal(size=(480, 4))
rows = rows.astype(np.float32)


def train(nredo):
    kmeans = faiss.Kmeans(4, 8, niter=NITER, nredo=nredo, seed=SEED)
    kmeans.train(rows)
    return kmeans.obj, float(kmeans.assign(rows)[0].sum())


alone, _ = train(nredo=1)
joined, kept = train(nredo=2)
rises = np.flatnonzero(np.diff(joined) > 1e-3 * joined[0]) + 1
print("faiss", faiss.__version__, "numpy", np.__version__)
print(f"niter={NITER}, nredo=1: obj =", alone.round(1).tolist())
print(f"niter={NITER}, nredo=2: obj =", joined.round(1).tolist())
print("objective over the centroids that nredo=2 has kept:", round(kept, 1))
print(f"expected: at most {NITER} values, none above the one before it")
print(f"seen:     {len(joined)} values, rising at {rises.tolist()}")
as_stated = (
    len(joined) > NITER
    and len(rises) == 1
    and np.array_equal(joined[: len(alone)], alone)
    and kept < 0.9 * alone[-1]
)
print("as stated" if as_stated else "NOT as stated: the behaviour has changed")
sys.exit(0 if as_stated else 1)
PYTHON_END
"$folder/venv/bin/python" "$folder/check.py"
