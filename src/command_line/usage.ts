// SPDX-License-Identifier: Apache-2.0
// What the command line says of itself.

import { VERSION } from "../base/version.ts";

export const USAGE = `aigw ${VERSION}: an inference scheduler for LLM fleets

Usage: aigw COMMAND [options]

Commands:
  serve               Run the gateway
  metadata-center     Run a metadata center alone
  mock-engine         Run an engine that behaves like vLLM, without a model
  check-config FILE   Validate a configuration
  import FILE ...     Write a configuration from those of the Go gateway
  config-schema       Print the JSON Schema of the configuration
  version             Print the version

aigw COMMAND --help tells more.`;

/** By command. */
export const COMMAND_USAGE: Record<string, string> = {
  "serve": `Usage: aigw serve --config FILE [options]
       aigw serve --endpoint URL [--endpoint URL ...] [options]

Options:
  --config FILE         Configuration, YAML or JSON
  --endpoint URL        Without a configuration: an engine, as http://127.0.0.1:8000. May be repeated. Every model that
                        the engines list in /v1/models is served
  --api-key-env NAME    Environment variable with the key that these engines want
  --api-key-file FILE   The same as a file
  --listen HOST:PORT    Gateway address, instead of the config's
  --admin HOST:PORT     Admin address, instead of the config's
  --center HOST:PORT    Address of the embedded metadata center, instead of the config's
  --workers N           Data plane threads, a number or auto
  --share-addresses     Listen beside a gateway that is running, to take its place: it may be ended then
  --mock-engines N      Run mock engines on the first N loopback endpoints of the config

SIGTERM and Ctrl-C drain and stop; SIGHUP reads the configuration again.`,
  "metadata-center": `Usage: aigw metadata-center [options]

Options:
  --config FILE         Take metadata_center from this configuration
  --listen HOST:PORT    Address (default 127.0.0.1:8080)
  --peer HOST:PORT      Replicate to this center. May be repeated`,
  "mock-engine": `Usage: aigw mock-engine [options]

Options:
  --listen HOST:PORT    Address (default 127.0.0.1:10001)
  --model NAME          Model that it serves; any when not given. May be repeated
  --speed FACTOR        Times faster than the profile (default 1)
  --instant             Answer at once, without the engine model
  --output-tokens N     Tokens of an answer whose request sets no maximum (default 16)
  --fault JSON          A fault for its requests, for example {"kind":"status","status":503,"first":3}`,
  "check-config": `Usage: aigw check-config FILE [options]

Options:
  --against FILE        The configuration of a running gateway: what of the change needs a restart`,
  "import": `Usage: aigw import FILE ...

Reads an Envoy bootstrap or EnvoyFilter of the Go gateway, and clusters.json or ServiceEntry files with its endpoints.
Prints our configuration as YAML, with what has no counterpart in comments before it.`,
  "config-schema": "Usage: aigw config-schema",
  "version": "Usage: aigw version",
};
