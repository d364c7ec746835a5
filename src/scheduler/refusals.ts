// SPDX-License-Identifier: Apache-2.0
// Why a request gets no endpoint.

import { GatewayError } from "../base/errors.ts";

export function hopeless(): GatewayError {
  return new GatewayError("slo_unreachable", "The objective for the first token cannot be kept now, by prediction");
}

export function noEndpoint(): GatewayError {
  return new GatewayError("no_endpoint", "No endpoint of the model is available");
}
