#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# start.sh DIR [PORT] [more flags]: becomes vLLM's API server on a loopback port, with the model that make_model.py wrote.
# VLLM_SERVER_DEV_MODE=1 in the environment adds /pause, /resume, /is_paused, /sleep, /server_info and more.
set -euo pipefail
dir=$(realpath "${1:?usage: start.sh DIR [PORT]}"); port=${2:-26000}; shift; shift || true
export OMP_NUM_THREADS=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_CPU_KVCACHE_SPACE=1
export VLLM_ALLOW_RUNTIME_LORA_UPDATING=True HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
export VLLM_HOST_IP=127.0.0.1 VLLM_CACHE_ROOT="$dir/cache" TORCHINDUCTOR_CACHE_DIR="$dir/cache/inductor" PATH="$dir/venv/bin:$PATH"
exec nice -n 15 "$dir/venv/bin/vllm" serve "$dir/model" --served-model-name tiny --host 127.0.0.1 --port "$port" \
  --block-size 32 --max-model-len 4096 --max-num-seqs 8 --num-gpu-blocks-override 512 \
  --enable-lora --max-lora-rank 8 --max-loras 2 --enforce-eager --dtype float32 "$@"
