// SPDX-License-Identifier: Apache-2.0
// `deno task fuzz:smuggling`: nearly requests to the direct front beside nginx and the runtime's own server. Whatever two of
// them both take is to be the same requests in the same order, or one could be made to see a request that another does not;
// and what nginx makes of such bytes, in front of the direct server, is to be the same requests there as nginx sent. Needs nginx.
// Options: --rounds N (20000), AIGW_TEST_SEED.

import { parseArgs } from "@std/cli/parse-args";
import { assertEquals } from "@std/assert";
import { targetOf } from "../../src/front/http/served.ts";
import { exchange, serve } from "../support/direct_server.ts";
import { oddRequests } from "../support/odd_requests.ts";
import { bytes } from "../support/raw_server.ts";
import { Random, seed } from "../support/seed.ts";
import { helpOf } from "../support/task_help.ts";
import { until } from "../support/until.ts";

helpOf(`Usage: deno task fuzz:smuggling [options]

Nearly requests to the direct front, nginx and the runtime's own server. Needs nginx.

  --rounds N          (20000)`);

const rounds = Number(parseArgs(Deno.args, { string: ["rounds"], default: { rounds: "20000" } }).rounds);
if (!new Deno.Command("which", { args: ["nginx"], stdout: "null" }).outputSync().success) {
  console.error("fuzz:smuggling needs nginx (of Debian's package of that name)");
  Deno.exit(2);
}

/** A server of the runtime that keeps what it sees. */
function recorder() {
  const seen: string[] = [];
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const body = await request.text().catch(() => undefined);
    if (body !== undefined) seen.push(`${request.method} ${targetOf(request.url)} ${body}`);
    return new Response("ok");
  });
  return { seen, port: server.addr.port, [Symbol.asyncDispose]: () => server.shutdown() };
}

function freePort(): number {
  using probe = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return (probe.addr as Deno.NetAddr).port;
}

/** nginx in front of each of these ports. */
async function startNginx(upstreams: readonly number[]) {
  const folder = await Deno.makeTempDir();
  const ports = upstreams.map(freePort);
  const servers = upstreams.map((upstream, i) =>
    `upstream u${i} { server 127.0.0.1:${upstream}; keepalive 8; }
     server { listen 127.0.0.1:${ports[i]};
       location / { proxy_pass http://u${i}; proxy_http_version 1.1; proxy_set_header Connection "";
         proxy_set_header Host x; proxy_next_upstream off; proxy_ignore_client_abort on; } }`
  );
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `worker_processes 1; daemon off; error_log ${folder}/error.log crit; pid ${folder}/pid;
     events { worker_connections 1024; }
     http { access_log off; client_body_temp_path ${folder}/1; proxy_temp_path ${folder}/2;
       fastcgi_temp_path ${folder}/3; uwsgi_temp_path ${folder}/4; scgi_temp_path ${folder}/5;
       ${servers.join("\n")} }`,
  );
  const process = new Deno.Command("nginx", { args: ["-c", `${folder}/nginx.conf`], stdout: "null", stderr: "null" })
    .spawn();
  await until(async () => {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port: ports[0] })).close();
      return true;
    } catch {
      return false;
    }
  }, "nginx listens");
  return {
    ports,
    async [Symbol.asyncDispose]() {
      process.kill("SIGTERM");
      await process.status;
      await Deno.remove(folder, { recursive: true });
    },
  };
}

// As far as both have seen something, it is the same.
function same(one: string[], other: string[], what: string): void {
  const both = Math.min(one.length, other.length);
  assertEquals(one.slice(0, both), other.slice(0, both), what);
}

const random = new Random(seed);
await using direct = serve();
await using behind = serve();
await using runtime = recorder();
await using upstream = recorder();
await using nginx = await startNginx([upstream.port, behind.port]);

// The runtime gives the body of a GET to nobody.
const shown = ({ seen }: typeof direct) => seen.map(({ line, body }) => line.startsWith("GET ") ? `${line} ` : body);
const counts = {
  rounds,
  direct: 0,
  runtime: 0,
  nginx: 0,
  behindNginx: 0,
  refusedByDirectAlone: 0,
  refusedByNginxAlone: 0,
};
for (let round = 0; round < rounds; round++) {
  // Each round has paths of its own: what nginx brings late is not taken for the next one's.
  const mark = `/${round}/`;
  const raw = oddRequests(random).replaceAll(/ \/(?=[pgcni])/g, ` ${mark}`);
  const sent = bytes(raw);
  for (const { seen } of [direct, behind, runtime, upstream]) seen.length = 0;
  await Promise.all([direct.port, runtime.port, ...nginx.ports].map((port) => exchange(port, [sent])));
  const what = `AIGW_TEST_SEED=${seed} round ${round}: ${JSON.stringify(raw)}`;
  const of = (seen: string[]) => seen.filter((text) => text.includes(mark));
  const own = of(shown(direct));
  const [atRuntime, atUpstream, atBehind] = [of(runtime.seen), of(upstream.seen), of(shown(behind))];
  // A prefix of what the runtime's server sees: in doubt the direct one refuses.
  assertEquals(own, atRuntime.slice(0, own.length), what);
  same(own, atUpstream, what);
  // What nginx has given up in the middle it may have brought to one and not to the other.
  same(atBehind, atUpstream, `behind nginx: ${what}`);
  counts.direct += own.length;
  counts.runtime += atRuntime.length;
  counts.nginx += atUpstream.length;
  counts.behindNginx += atBehind.length;
  if (own.length < atUpstream.length) counts.refusedByDirectAlone++;
  if (own.length > atUpstream.length) counts.refusedByNginxAlone++;
}
console.log(`AIGW_TEST_SEED=${seed}: ${JSON.stringify(counts)}`);
