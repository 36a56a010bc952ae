#!/usr/bin/env bash
# Hydra: an experiment that has a sweep of its own loses its points where experiments are swept over.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-swept-experiment-loses-its-points.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: two experiments of three seeds each, in hydra.sweeper.params, are six runs with
#           --multirun +experiment=a,b, as each alone is three; or the sweep is refused.
# Seen:     two runs, one of each experiment, with the default seed, and exit code 0.
# Matters:  a table of two experiments has one seed of each instead of three, and nothing says so;
#           the points of a file are read before the sweep has chosen among files.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hydra-core==1.3.8 omegaconf==2.3.1 || exit 2
cd "$folder"
mkdir experiment
for name in a b; do
    printf '# @package _global_\nname: %s\nhydra:\n  sweeper:\n    params:\n      seed: 1,2,3\n' \
        "$name" > "experiment/$name.yaml"
done
printf 'name: none\nseed: 0\n' > config.yaml
cat > app.py <<'PYTHON_END'
import hydra


@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config):
    print("ran", config.name, "with seed", config.seed)


if __name__ == "__main__":
    main()
PYTHON_END

swept() {
    code=0
    said=$("venv/bin/python" app.py --multirun "$1" 2>&1) || code=$?
    runs=$(grep "^ran " <<< "$said" | sed 's/^ran //; s/ with seed / /' | paste -sd, || true)
    echo "$1: exit code $code, runs: $runs"
}

swept "+experiment=a"
alone="$code $runs"
swept "+experiment=a,b"
if [[ "$alone" == "0 a 1,a 2,a 3" && "$code $runs" == "0 a 0,b 0" ]]; then
    echo "As stated: the points of both experiments are gone"
else
    echo "The behaviour has changed"
    exit 1
fi
