"""Streams one answer of lorad to the terminal."""

import argparse
import sys

import grpc
from lorad.v1 import inference_pb2, inference_pb2_grpc


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--adapter", default="", help="without it the base answers")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, help="0 is greedy; without it the model's own default")
    parser.add_argument("--timeout", type=float, default=300, help="seconds")
    arguments = parser.parse_args()

    sampling = inference_pb2.SamplingParams(max_tokens=arguments.max_tokens)
    if arguments.temperature is not None:
        sampling.temperature = arguments.temperature
    request = inference_pb2.GenerateRequest(text=arguments.prompt, adapter=arguments.adapter, sampling=sampling)

    with grpc.insecure_channel(arguments.server) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        try:
            for message in stub.Generate(request, timeout=arguments.timeout):
                print(message.text, end="", flush=True)
                if message.finish_reason == inference_pb2.FINISH_REASON_ABORT:
                    sys.exit(f"\naborted: {message.abort_detail}")
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
    print()


if __name__ == "__main__":
    main()
