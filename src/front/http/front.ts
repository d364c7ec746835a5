// SPDX-License-Identifier: Apache-2.0
// The front door: which path and method a request has, and who answers it. Everything that is not inference is answered
// here: the list of models, health, preflights of browsers, and what does not exist.

import { GatewayError } from "../../base/errors.ts";
import { end } from "../../gateway/accounting.ts";
import type { Call } from "../../gateway/call.ts";
import type { ListedModel, RouteTable } from "../../gateway/routes.ts";
import { INFERENCE_PATHS, type Kind } from "../../openai/api.ts";
import { addHeaders, type HttpContext, openCall, refuse } from "./http_call.ts";
import { type HttpRequest, HttpResponse, pathOf } from "./exchange.ts";
import { infer, type InferenceParts } from "./infer.ts";
import { passStored, type StoredParts } from "./stored.ts";

export interface FrontOptions {
  readonly context: HttpContext;
  readonly inference: InferenceParts;
  readonly stored: StoredParts;
  readonly routes: RouteTable;
  /** Further paths of inference, by the config. */
  readonly paths: ReadonlyMap<string, Kind>;
  /** When the gateway started, in seconds: `created` of its models. */
  readonly started: number;
  /** Where the admin's page is. */
  readonly admin: string;
  /** Why no request can be served now; undefined when one can. */
  notReady(): GatewayError | undefined;
  /** How long a browser may keep a preflight's answer; undefined without CORS. */
  readonly corsMaxAgeS: number | undefined;
}

const SLASH = 47;
const MODELS = "/v1/models";
const REALTIME = "/v1/realtime";
const RESPONSES = "/v1/responses";
const PATHS = [
  ...INFERENCE_PATHS.keys(),
  `${RESPONSES}/{id}`,
  `${RESPONSES}/{id}/cancel`,
  `${RESPONSES}/{id}/input_items`,
  MODELS,
  `${MODELS}/{id}`,
  "/health",
  "/",
];

export class Front {
  constructor(readonly options: FrontOptions) {}

  /** Answers a client's request; never throws. */
  handle(request: HttpRequest): HttpResponse | Promise<HttpResponse> {
    const path = pathOf(request.target);
    const kind = this.#kindOf(path);
    // Fast path: nearly everything is inference.
    if (kind !== undefined && request.method === "POST") {
      return infer(this.options.inference, request, kind);
    }
    if (kind === undefined && path.length > 1 && path.endsWith("/")) {
      const bare = withoutSlashes(path);
      const same = this.#kindOf(bare);
      if (same === undefined || request.method !== "POST") return this.#other(request, bare || "/", same);
      return infer(this.options.inference, request, same, bare + request.target.slice(path.length));
    }
    return this.#other(request, path, kind);
  }

  #kindOf(path: string): Kind | undefined {
    return INFERENCE_PATHS.get(path) ?? this.options.paths.get(path);
  }

  // What is no inference.
  #other(request: HttpRequest, path: string, kind: Kind | undefined): HttpResponse | Promise<HttpResponse> {
    const reads = request.method === "GET" || request.method === "HEAD";
    if (request.method === "OPTIONS" && this.options.corsMaxAgeS !== undefined) return this.#preflight(request);
    if (kind !== undefined) return this.#wrongMethod(request, path, "POST");
    if (path === MODELS || path.startsWith(`${MODELS}/`)) {
      return reads ? this.#models(request, path) : this.#wrongMethod(request, path, "GET");
    }
    if (path.startsWith(`${RESPONSES}/`)) return this.#stored(request, path);
    if (path === "/health" || path === "/") {
      if (!reads) return this.#wrongMethod(request, path, "GET");
      return path === "/" ? this.#welcome(request) : this.#health(request);
    }
    if (path === REALTIME) {
      const message = "/v1/realtime is not served: the gateway carries requests and streams, no WebSockets";
      return this.#refuse(request, new GatewayError("not_supported", message));
    }
    const message = `There is no path ${path.slice(0, 200)}; there are: ${
      [...PATHS, ...this.options.paths.keys()].join(" ")
    }`;
    return this.#refuse(request, new GatewayError("route_not_found", message));
  }

  // Alive; asked for `ready`, also whether it has an endpoint to send requests to, and goes on accepting.
  #health(request: HttpRequest): HttpResponse {
    const { context, notReady } = this.options;
    const reason = /[?&]ready(?:[=&]|$)/.test(request.target) ? notReady() : undefined;
    if (reason !== undefined) return this.#refuse(request, reason);
    return this.#answer(request, (call) => addHeaders(context, call, new HttpResponse(200, "")));
  }

  // For who looks at the address in a browser.
  #welcome(request: HttpRequest): HttpResponse {
    const { context, admin } = this.options;
    return this.#answer(request, (call) => {
      const text = `AIGW serves the OpenAI API here: base URL /v1, models at ${MODELS}, health at /health.\n` +
        `Its operators find the fleet, decisions and metrics at ${admin}\n`;
      const response = addHeaders(context, call, new HttpResponse(200, text));
      response.append("content-type", "text/plain; charset=utf-8");
      return response;
    });
  }

  #answer(request: HttpRequest, make: (call: Call) => HttpResponse): HttpResponse {
    const call = openCall(this.options.context, request);
    call.status = 200;
    const response = make(call);
    end(call, "ok");
    return response;
  }

  #refuse(request: HttpRequest, error: GatewayError, headers?: Record<string, string>): HttpResponse {
    const { context } = this.options;
    return refuse(context, openCall(context, request), error, headers);
  }

  #wrongMethod(request: HttpRequest, path: string, allowed: string): HttpResponse {
    const error = new GatewayError("method_not_allowed", `${path} takes ${allowed}, not ${request.method}`);
    return this.#refuse(request, error, { allow: allowed });
  }

  // Who asks for models has to be known, as who uses them, and sees what it may use. `make` returns nothing for what there
  // is not.
  #known(request: HttpRequest, make: (may: (model: ListedModel) => boolean) => unknown): HttpResponse {
    const { context } = this.options;
    const call = openCall(context, request);
    try {
      const { models } = call.authenticate();
      const body = make(({ id }) => models === undefined || models.has(id));
      call.status = 200;
      const response = addHeaders(context, call, new HttpResponse(200, JSON.stringify(body)));
      response.append("content-type", "application/json");
      end(call, "ok");
      return response;
    } catch (error) {
      return refuse(context, call, error as GatewayError);
    }
  }

  #models(request: HttpRequest, path: string): HttpResponse {
    const { models } = this.options.routes;
    if (path === MODELS) {
      return this.#known(request, (may) => ({
        object: "list",
        data: models.filter(may).map((model) => this.#model(model)),
      }));
    }
    const id = decode(path.slice(MODELS.length + 1));
    return this.#known(request, (may) => {
      const model = models.find((one) => one.id === id && may(one));
      if (model) return this.#model(model);
      throw new GatewayError("model_not_found", `The model ${JSON.stringify(id)} does not exist`, "model");
    });
  }

  #model({ id, parent, maxModelLen }: ListedModel) {
    return {
      id,
      object: "model",
      created: this.options.started,
      owned_by: "aigw",
      ...(parent === null ? {} : { parent }),
      ...(maxModelLen === undefined ? {} : { max_model_len: maxModelLen }),
    };
  }

  // GET and DELETE of a response, its input items, and its cancellation.
  #stored(request: HttpRequest, path: string): HttpResponse | Promise<HttpResponse> {
    const [, id, action] = /^([^/]+)(?:\/(cancel|input_items))?$/.exec(path.slice(RESPONSES.length + 1)) ?? [];
    if (id === undefined) {
      return this.#refuse(request, new GatewayError("route_not_found", `There is no path ${path.slice(0, 200)}`));
    }
    const allowed = action === "cancel" ? "POST" : action === "input_items" ? "GET" : "GET, DELETE";
    if (!allowed.split(", ").includes(request.method)) return this.#wrongMethod(request, path, allowed);
    return passStored(this.options.stored, request, decode(id));
  }

  #preflight(request: HttpRequest): HttpResponse {
    return this.#answer(request, (call) => {
      call.status = 204;
      const response = addHeaders(this.options.context, call, new HttpResponse(204, null));
      response.append("access-control-allow-methods", "GET, POST, DELETE, OPTIONS");
      response.append("access-control-allow-headers", request.fields.get("access-control-request-headers") ?? "*");
      response.append("access-control-max-age", String(this.options.corsMaxAgeS));
      return response;
    });
  }
}

function withoutSlashes(path: string): string {
  let end = path.length;
  while (end > 0 && path.charCodeAt(end - 1) === SLASH) end--;
  return path.slice(0, end);
}

function decode(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
