#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# start.sh DIR [PORT] [SLOTS]: becomes llama.cpp's server on a loopback port.
set -euo pipefail
here=$(dirname "$(realpath "$0")"); dir=${1:?usage: start.sh DIR [PORT] [SLOTS]}
exec env OMP_NUM_THREADS=1 nice -n 15 "$dir/llamacpp/bin/python" "$here/serve.py" "$dir/tiny.gguf" "${2:-26100}" "${3:-4}"
