#!/bin/sh
# Makes the virtual environment $1 with Python $2, or with the first one found that is new enough.
# Leaves an environment alone that is there and works. Called by the Makefile.
set -eu

venv=$1
wanted=${2:-}

works() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

if [ -x "$venv/bin/python" ] && works "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    echo "Updating $venv ..."
    exit 0
fi

for candidate in ${wanted:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if works "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "${python:-}" ]; then
    echo "Provledger needs Python 3.11 or newer; found: $("${wanted:-python3}" --version 2>&1 | head -n 1)." >&2
    echo "Install one, or name it: make setup PYTHON=/path/to/python3.13" >&2
    exit 1
fi

echo "Setting up $venv with $("$python" --version) (about a minute the first time) ..."
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "This Python lacks its venv module. On Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
rm -rf "$venv"
"$python" -m venv "$venv"
