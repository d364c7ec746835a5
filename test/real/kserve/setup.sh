#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh DIR: a venv DIR/kserve with KServe's protocol buffers, as Triton's own client brings them. Skips what is there.
set -euo pipefail
dir=${1:?usage: setup.sh DIR}
venv="$dir/kserve"; stamp="$venv/.ready-2.73.0"
mkdir -p "$dir"
[ -e "$stamp" ] && exit 0
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install -q "tritonclient[grpc]==2.73.0"
touch "$stamp"
