// SPDX-License-Identifier: Apache-2.0
// Envoy's external processing in protobufjs's own words, for the side of Envoy in tests: apart from the gateway's own reading
// and writing of these messages, so that each is held to the other.

import protobuf from "protobufjs";

const { root } = protobuf.parse(
  `
syntax = "proto3";
package envoy;
message HeaderValue { string key = 1; string value = 2; bytes raw_value = 3; }
message HeaderMap { repeated HeaderValue headers = 1; }
message HeaderValueOption { HeaderValue header = 1; int32 append_action = 3; }
message HeaderMutation { repeated HeaderValueOption set_headers = 1; repeated string remove_headers = 2; }
message Value { oneof kind { double number_value = 2; string string_value = 3; Struct struct_value = 5; ListValue list_value = 6; } }
message ListValue { repeated Value values = 1; }
message Struct { map<string, Value> fields = 1; }
message Metadata { map<string, Struct> filter_metadata = 1; }
message HttpHeaders { HeaderMap headers = 1; bool end_of_stream = 3; }
message HttpBody { bytes body = 1; bool end_of_stream = 2; }
message HttpTrailers { HeaderMap trailers = 1; }
message ProtocolConfiguration { int32 request_body_mode = 1; int32 response_body_mode = 2; }
message ProcessingRequest {
  oneof request {
    HttpHeaders request_headers = 2; HttpHeaders response_headers = 3; HttpBody request_body = 4;
    HttpBody response_body = 5; HttpTrailers request_trailers = 6; HttpTrailers response_trailers = 7;
  }
  Metadata metadata_context = 8;
  ProtocolConfiguration protocol_config = 11;
}
message StreamedBodyResponse { bytes body = 1; bool end_of_stream = 2; }
message BodyMutation { oneof mutation { bytes body = 1; bool clear_body = 2; StreamedBodyResponse streamed_response = 3; } }
message CommonResponse { int32 status = 1; HeaderMutation header_mutation = 2; BodyMutation body_mutation = 3; bool clear_route_cache = 5; }
message PartResponse { CommonResponse response = 1; }
message TrailersResponse { HeaderMutation header_mutation = 1; }
message HttpStatus { int32 code = 1; }
message ImmediateResponse { HttpStatus status = 1; HeaderMutation headers = 2; bytes body = 3; string details = 5; }
message ProcessingResponse {
  oneof response {
    PartResponse request_headers = 1; PartResponse response_headers = 2; PartResponse request_body = 3;
    PartResponse response_body = 4; TrailersResponse request_trailers = 5; TrailersResponse response_trailers = 6;
    ImmediateResponse immediate_response = 7;
  }
  Struct dynamic_metadata = 8;
}`,
  { keepCase: true },
);

export const ProcessingRequest = root.lookupType("envoy.ProcessingRequest");
export const ProcessingResponse = root.lookupType("envoy.ProcessingResponse");

export interface HeaderMutation {
  set_headers?: { header: { key: string; raw_value: Uint8Array } }[];
  remove_headers?: string[];
}

export interface Part {
  response?: {
    header_mutation?: HeaderMutation;
    body_mutation?: {
      body?: Uint8Array;
      clear_body?: boolean;
      streamed_response?: { body?: Uint8Array; end_of_stream?: boolean };
    };
    clear_route_cache?: boolean;
  };
}

/** One ProcessingResponse, without what is not there. */
export interface Told {
  request_headers?: Part;
  response_headers?: Part;
  request_body?: Part;
  response_body?: Part;
  request_trailers?: unknown;
  response_trailers?: unknown;
  immediate_response?: {
    status: { code: number };
    headers?: HeaderMutation;
    body?: Uint8Array;
    details?: string;
  };
  dynamic_metadata?: unknown;
}

/** Throws Error for bytes that are no ProcessingResponse. */
export function decodeTold(bytes: Uint8Array): Told {
  return ProcessingResponse.toObject(ProcessingResponse.decode(bytes), { bytes: Array, defaults: false }) as Told;
}
