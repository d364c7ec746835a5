// SPDX-License-Identifier: Apache-2.0
// `aigw metadata-center`: a metadata center alone.

import { formatAddress, parseAddress } from "../base/address.ts";
import { loadConfig, parseConfig } from "../config/load.ts";
import { environmentNotes } from "../config/metadata_center.ts";
import { DEFAULT_CENTER_ADDRESS, startCenter } from "../server/center_process.ts";
import { Log } from "../telemetry/log.ts";
import { addressIn, type Command, UsageError } from "./command.ts";
import { centerScheme } from "./serve.ts";
import { terminationSignal } from "./signals.ts";

export const metadataCenterCommand: Command = {
  name: "metadata-center",
  summary: "Run a metadata center alone",
  options: [
    { name: "config", value: "FILE", help: "Take metadata_center from this configuration" },
    { name: "listen", value: "HOST:PORT", help: `Address (default ${DEFAULT_CENTER_ADDRESS})` },
    { name: "peer", value: "HOST:PORT", many: true, help: "Replicate to this center" },
  ],
  async run(given) {
    const file = given.text("config");
    const config = file === undefined ? parseConfig({}, "environment", Deno.env) : await loadConfig(file);
    const { metadata_center: own } = config;
    own.listen = addressIn(given, "listen") ?? own.listen ?? DEFAULT_CENTER_ADDRESS;
    for (const peer of given.texts("peer")) {
      if (!parseAddress(peer)) throw new UsageError(`--peer: expected HOST:PORT, found "${peer}"`);
      own.peers.push(peer);
    }
    const log = new Log(config.log.level, "center");
    for (const note of environmentNotes(Deno.env.toObject())) log.warn(note);
    const center = await startCenter(own, false, log);
    console.log(`Metadata center on ${centerScheme(config)}://${formatAddress(center.address!)}`);
    await terminationSignal();
    await center.stop();
    return 0;
  },
};
