#!/usr/bin/env bash
# Hydra: a callback that raises leaves exit code 0.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-callback-error-exit-0.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: an exception in a callback (say, one that writes the table of a sweep in
#           on_multirun_end) ends the program as an exception in the job does: exit code 1.
# Seen:     it becomes a Python warning, and the program exits with 0; with HYDRA_FULL_ERROR=1 too.
#           The job that raises exits with 1. A SystemExit of the callback is let through.
# Matters:  batch systems and CI take a sweep for a success whose report was never written. A
#           callback that must not fail in silence catches its errors and raises SystemExit(1).
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hydra-core==1.3.8 omegaconf==2.3.1 || exit 2

cat > "$folder/app.py" <<'PYTHON_END'
import hydra
from hydra.experimental.callback import Callback


class Report(Callback):
    def on_multirun_end(self, config, **kwargs):
        if config.fails == "callback":
            raise RuntimeError("the table could not be written")
        if config.fails == "exit":
            raise SystemExit(3)


@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config):
    if config.fails == "job":
        raise RuntimeError("the job failed")


if __name__ == "__main__":
    main()
PYTHON_END
cat > "$folder/config.yaml" <<'YAML_END'
fails: nothing
hydra:
  callbacks:
    report:
      _target_: app.Report
YAML_END

cd "$folder"
codes=""
for fails in nothing job callback exit; do
    code=0
    HYDRA_FULL_ERROR=1 PYTHONPATH=. venv/bin/python app.py --multirun fails=$fails \
        > "$fails.txt" 2>&1 || code=$?
    codes="$codes $fails=$code"
done
echo "hydra $(venv/bin/python -c 'import hydra; print(hydra.__version__)'), exit codes:$codes"
echo "what is left of the callback's exception: $(grep -m1 -i warning callback.txt || echo nothing)"
if [ "$codes" = " nothing=0 job=1 callback=0 exit=3" ]; then
    echo "as stated"
else
    echo "NOT as stated: the behaviour has changed"
    exit 1
fi
