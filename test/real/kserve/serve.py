# SPDX-License-Identifier: Apache-2.0
"""A KServe v2 server on the official protocol buffers and Google's gRPC, with the inputs and outputs of two models: `ensemble`
as TensorRT-LLM's backend has it, and `vllm_model` as Triton's vLLM backend has it. It counts tokens as words and says the
prompt's last words back, one a response."""

import asyncio
import json
import struct
import sys
from http import HTTPStatus

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as rpc

FIXED = {"BOOL": ("?", "bool_contents"), "INT32": ("<i", "int_contents"), "UINT64": ("<Q", "uint64_contents"),
         "FP32": ("<f", "fp32_contents")}


def texts(raw):
    """BYTES tensors are strings behind their lengths."""
    found, at = [], 0
    while at < len(raw):
        (size,) = struct.unpack_from("<I", raw, at)
        found.append(raw[at + 4:at + 4 + size].decode())
        at += 4 + size
    return found


def inputs_of(request):
    values = {}
    for i, tensor in enumerate(request.inputs):
        raw = request.raw_input_contents[i] if request.raw_input_contents else None
        if tensor.datatype == "BYTES":
            found = texts(raw) if raw is not None else [one.decode() for one in tensor.contents.bytes_contents]
        else:
            form, field = FIXED[tensor.datatype]
            found = [one for (one,) in struct.iter_unpack(form, raw)] if raw is not None else list(getattr(tensor.contents, field))
        if list(tensor.shape) != [1, len(found)]:
            raise ValueError(f"unexpected shape for input '{tensor.name}'")
        values[tensor.name] = found
    return values


def response(request, text, counts, finish):
    answer = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
    outputs = [("text_output", "BYTES", struct.pack("<I", len(text.encode())) + text.encode())]
    for name, value in counts.items():
        outputs.append((name, "UINT32" if request.model_name == "vllm_model" else "INT32", struct.pack("<i", value)))
    if finish is not None:
        outputs.append(("finish_reason", "BYTES", struct.pack("<I", len(finish)) + finish.encode()))
    for name, datatype, raw in outputs:
        answer.outputs.append(pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype, shape=[1]))
        answer.raw_output_contents.append(raw)
    return pb.ModelStreamInferResponse(infer_response=answer)


class Triton(rpc.GRPCInferenceServiceServicer):
    async def ModelStreamInfer(self, requests, context):
        async for request in requests:
            if request.model_name not in ("ensemble", "vllm_model"):
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"Request for unknown model: '{request.model_name}' is not found")
            try:
                values = inputs_of(request)
            except ValueError as error:
                yield pb.ModelStreamInferResponse(error_message=str(error))
                return
            vllm = request.model_name == "vllm_model"
            prompt = values["text_input"][0]
            options = json.loads(values["sampling_parameters"][0]) if vllm else {"max_tokens": values["max_tokens"][0]}
            words = prompt.split()
            wanted = words[-options["max_tokens"]:]
            finish = "length" if len(words) > options["max_tokens"] else "stop"
            stream = values["stream"][0]
            pieces = [f" {word}" for word in wanted] if stream else [" ".join(wanted)]
            for i, piece in enumerate(pieces):
                counts = {}
                if values.get("return_num_input_tokens", [False])[0]:
                    counts["num_input_tokens"] = len(words)
                if values.get("return_num_output_tokens", [False])[0]:
                    # vLLM's backend tells those of each response, TensorRT-LLM's all so far.
                    counts["num_output_tokens"] = 1 if vllm and stream else i + 1 if stream else len(wanted)
                last = i == len(pieces) - 1
                wants = values.get("return_finish_reason", [False])[0]
                yield response(request, piece, counts, (finish if last else "None") if wants else None)
                await asyncio.sleep(0.005)


async def health(reader, writer):
    line = (await reader.readline()).decode()
    known = line.startswith("GET /health ") or line.startswith("GET /v2/health/ready ")
    status = HTTPStatus.OK if known else HTTPStatus.NOT_FOUND
    writer.write(f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
    await writer.drain()
    writer.close()


async def main(port):
    server = grpc.aio.server()
    rpc.add_GRPCInferenceServiceServicer_to_server(Triton(), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    async with await asyncio.start_server(health, "127.0.0.1", port + 1) as web:
        await web.serve_forever()


asyncio.run(main(int(sys.argv[1])))
