#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# start.sh DIR [PORT]: becomes a KServe server: gRPC on PORT, health by HTTP on PORT + 1.
set -euo pipefail
here=$(dirname "$(realpath "$0")"); dir=${1:?usage: start.sh DIR [PORT]}
exec "$dir/kserve/bin/python" "$here/serve.py" "${2:-26300}"
