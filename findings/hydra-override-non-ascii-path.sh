#!/usr/bin/env bash
# Hydra: an unquoted value may hold no letter outside ASCII, and no "~" in front.
#
# Package:  hydra-core 1.3.8 (omegaconf 2.3.1), from PyPI.
# Run:      bash hydra-override-non-ascii-path.sh
# Exit:     0 the behaviour is as stated here, 1 it no longer is, other: the set-up failed.
#
# Expected: `root=data/Köter` gives the text "data/Köter", as `root=data/Koeter` gives its own:
#           neither letter means anything in the grammar of overrides.
# Seen:     "LexerNoViableAltException: root=data/Köter"; the same for `root=~/data`, which a shell
#           leaves alone after "=", and for "&" and "#". With quotes inside the argument,
#           root='data/Köter', the text arrives. Spaces, "%", "+" and "@" need no quotes.
# Matters:  data folders are called what their owners speak. The message shows a caret, and says
#           nothing of quotes; a shell's own quotes do not help, since Hydra never sees them.
set -euo pipefail

PYTHON=${PYTHON:-python3}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$PYTHON" -m venv "$folder/venv" || exit 2
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hydra-core==1.3.8 omegaconf==2.3.1 || exit 2

cat > "$folder/check.py" <<'PYTHON_END'
import sys

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

parser = OverridesParser.create()


def value(text):
    try:
        return parser.parse_override(f"root={text}").value()
    except HydraException as error:
        return type(error)


refused = ["data/Köter", "~/data", "data/a&b", "data/a#b"]
read = ["data/Koeter", "data/a b", "data/100%", "data/a+b@c"]
found = {text: value(text) for text in [*refused, *read]}
quoted = {text: value(f"'{text}'") for text in refused}
for text, got in {**found, **{f"'{k}'": v for k, v in quoted.items()}}.items():
    print(f"root={text}: {got!r}")
same = (
    all(isinstance(found[text], type) for text in refused)
    and all(found[text] == text for text in read)
    and all(str(quoted[text]) in (text, f"'{text}'") for text in refused)
)
sys.exit(0 if same else 1)
PYTHON_END
"$folder/venv/bin/python" "$folder/check.py" || { echo "The behaviour has changed"; exit 1; }
echo "As stated: letters outside ASCII and a leading ~ need quotes that Hydra sees"
