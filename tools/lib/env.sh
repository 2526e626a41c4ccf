# Sourced by the tools, after they set `root`: makes or refreshes the environment and sets `python` to its interpreter.
# shellcheck shell=sh disable=SC2034,SC2154

unset PYTHONHOME PYTHONPATH

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3.14 python3; do
        if "$candidate" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    echo "Python 3.11 or later is missing: install it first (Debian: apt-get install python3 python3-venv python3-dev)." >&2
    return 1
}

base=$(find_python) || exit 1
python=$("$base" "$root/tools/lib/make_env.py") || exit 1
