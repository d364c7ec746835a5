#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""serve.py MODEL.gguf [PORT] [SLOTS]: llama.cpp's own HTTP server on a loopback port, until SIGTERM."""
import os
import signal
import sys

import xllamacpp as x

model, port, slots = sys.argv[1], int(sys.argv[2] if len(sys.argv) > 2 else 26100), int(sys.argv[3] if len(sys.argv) > 3 else 4)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
p = x.CommonParams()
p.model.path = model
p.model_alias = {"tiny"}
p.hostnames = ["127.0.0.1"]
p.port = port
p.n_parallel = slots
p.n_ctx = 2048 * slots  # tokens for all slots together
p.n_gpu_layers = 0
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
p.n_threads_http = 16
p.endpoint_metrics = p.endpoint_slots = p.endpoint_props = True
p.ui = p.warmup = False
p.use_jinja = True
server = x.Server(p)
print("listening on", server.listening_address, flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
os._exit(0)  # its own end waits for open connections
