#!/usr/bin/env bash
# Makes sure that the compilers and the emulator are there, then installs cgate into a virtual
# environment. As root it installs what is missing from Debian; else it prints the command.
#
# Example: host_tools/setup.sh .venv dev --extra-index-url https://example.org/simple
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 VENV (demo|dev) [argument for pip]..." >&2
    exit 2
fi
venv=$1
extra=$2
shift 2
cd "$(dirname "$0")/.."

missing=()
# need PACKAGE TEST...: PACKAGE is missing if TEST fails.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
has_newlib() { [ -f "$(arm-none-eabi-gcc -print-file-name=libc.a)" ]; }
has_libc() { echo '#include <stdlib.h>' | cc -E -; }

need gcc command -v cc
need libc6-dev has_libc
need gcc-arm-none-eabi command -v arm-none-eabi-gcc
need binutils-arm-none-eabi command -v arm-none-eabi-nm
need libnewlib-arm-none-eabi has_newlib
need qemu-system-arm command -v qemu-system-arm
need python3.11 python3.11 --version
need python3.11-venv python3.11 -c 'import ensurepip, venv'
if [ "$extra" = dev ]; then
    need clang command -v clang
    need clang-format command -v clang-format
fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: missing: ${missing[*]}" >&2
        echo "  try: sudo apt-get install ${missing[*]}" >&2
        exit 3
    fi
    apt-get update
    if [[ " ${missing[*]} " == *" python3.11 "* ]] && ! apt-cache show python3.11 >/dev/null 2>&1; then
        echo "error: this system's packages have no Python 3.11, which cgate needs" >&2
        echo "  try: uv python install 3.11, or pyenv install 3.11; python3.11 must be on PATH" >&2
        exit 3
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
fi

[ -x "$venv/bin/python" ] || python3.11 -m venv "$venv"
"$venv/bin/python" -m pip install --disable-pip-version-check -c constraints.txt "$@" -e ".[$extra]"
