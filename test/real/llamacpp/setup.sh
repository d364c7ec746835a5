#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh DIR: llama.cpp server (PyPI xllamacpp) in the venv DIR/llamacpp, a model for it in DIR/tiny.gguf. Skips what is there.
set -euo pipefail
dir=${1:?usage: setup.sh DIR}
venv="$dir/llamacpp"; stamp="$venv/.ready-2026.10.11549"
mkdir -p "$dir"
if [ ! -e "$stamp" ]; then
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install -q xllamacpp==2026.10.11549 gguf==0.19.0
touch "$stamp"
fi
"$venv/bin/python" "$(dirname "$(realpath "$0")")/make_gguf.py" "$dir/tiny.gguf"
