#!/bin/sh
# make-venv.sh PYTHON DIR: a virtual environment, or the reason why there is none and what to do.
set -eu
python=$1
directory=$2

if ! command -v "$python" >/dev/null 2>&1; then
    echo "make: $python is not installed; sudo apt-get install python3 python3-venv" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "make: $("$python" --version) is too old; claprt needs Python 3.10 or newer: make PYTHON=python3.11 ..." >&2
    exit 1
fi
# Debian and Ubuntu keep ensurepip in a package of its own.
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "== installing $package"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"
    else
        echo "make: Python's venv module is incomplete; sudo apt-get install $package" >&2
        exit 1
    fi
fi
if [ ! -x "$directory/bin/python" ] || ! "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$directory"
    "$python" -m venv "$directory"
fi
