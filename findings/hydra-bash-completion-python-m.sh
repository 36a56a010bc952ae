#!/usr/bin/env bash
# Hydra: the bash completion that a program installs completes nothing for `python -m program`.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-bash-completion-python-m.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: after eval "$(python -m app -sc install=bash)", TAB completes `python -m app mode=` as
#           it completes `python app.py mode=`.
# Seen:     the function is installed for the word `python`, and looks for a file named as the
#           second word, here "-m"; there is none, and it returns without a word.
#           `python app.py mode=` is completed.
# Matters:  programs that are packages are started with -m. They need a console script of their
#           own for completion.
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
    pass


if __name__ == "__main__":
    main()
PYTHON_END
export PATH=$folder/venv/bin:$PATH
set +u  # the function that is installed reads unset variables
eval "$(python -m app -sc install=bash)"

completed() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$2 COMPREPLY=()
    hydra_bash_completion || true
    echo "${COMPREPLY[*]:-}"
}

by_module=$(completed "python -m app mode=" 3)
by_file=$(completed "python app.py mode=" 2)
echo "python app.py mode=  $by_file"
echo "python -m app mode=  ${by_module:-(nothing)}"
if [[ "$by_file" == *mode=slow* && -z "$by_module" ]]; then
    echo "As stated: nothing is completed for python -m"
else
    echo "The behaviour has changed"
    exit 1
fi
