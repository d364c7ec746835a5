#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# start.sh DIR [PORT]: becomes `transformers serve` on a loopback port, from the venv and with the model of ../vllm/setup.sh.
# Its cache is bounded here: by itself it takes nearly all of a machine's memory at the first request.
set -euo pipefail
dir=$(realpath "${1:?usage: start.sh DIR [PORT]}"); port=${2:-26200}
mkdir -p "$dir/hf/hub"  # GET /v1/models answers 500 without it
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 HF_HOME="$dir/hf"
ulimit -v 14000000
exec nice -n 15 "$dir/venv/bin/transformers" serve "$dir/model" --host 127.0.0.1 --port "$port" --device cpu \
  --dtype float32 --continuous-batching --cb-block-size 32 --cb-num-blocks 256 --cb-max-batch-tokens 512
