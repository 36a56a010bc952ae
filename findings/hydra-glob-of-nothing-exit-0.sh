#!/usr/bin/env bash
# Hydra: a sweep over a pattern that no option fits runs nothing, and ends well.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-glob-of-nothing-exit-0.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: --multirun 'mode=glob(z*)' is refused as mode=zzz is, which names the options.
# Seen:     "Launching 0 jobs locally", exit code 0, and no run; mode=zzz ends with code 1.
# Matters:  a misspelt pattern in a job script looks like a sweep that has succeeded, and what
#           waits for it goes on with results that are not there.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hydra-core==1.3.8 omegaconf==2.3.1 || exit 2
cd "$folder"
mkdir mode
echo "x: 1" > mode/fast.yaml
echo "x: 2" > mode/slow.yaml
printf 'defaults:\n- mode: fast\n' > config.yaml
cat > app.py <<'PYTHON_END'
import hydra


@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config):
    print("ran with", config.mode.x)


if __name__ == "__main__":
    main()
PYTHON_END

swept() {
    code=0
    said=$("venv/bin/python" app.py --multirun "$1" 2>&1) || code=$?
    runs=$(grep -c "ran with" <<< "$said" || true)
    echo "$1: exit code $code, $runs runs"
}

swept "mode=glob(*)"
all="$code $runs"
swept "mode=zzz"
unknown="$code $runs"
swept "mode=glob(z*)"
if [[ "$all" == "0 2" && "$unknown" == "1 0" && "$code $runs" == "0 0" ]]; then
    echo "As stated: a pattern that fits nothing is a sweep that has succeeded"
else
    echo "The behaviour has changed"
    exit 1
fi
