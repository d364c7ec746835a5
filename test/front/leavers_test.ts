// SPDX-License-Identifier: Apache-2.0
import { assertEquals } from "@std/assert";
import { ManualClock } from "../../src/base/clock.ts";
import { closedByPeer, Leavers, systemConnections } from "../../src/front/http/leavers.ts";
import { settle } from "../support/parts.ts";
import { until } from "../support/until.ts";

/** A line of /proc/net/tcp. */
const line = (local: string, remote: string, state: string) =>
  `   7: ${local} ${remote} ${state} 00000000:00000000 00:00000000 00000000  1000        0 12345 1 0 20 4 30 10 -1\n`;
const LOCAL = "0100007F:2710";

function client(port: number, clock: ManualClock, hostname = "127.0.0.1") {
  const told = { left: 0 };
  const remoteAddr: Deno.NetAddr = { transport: "tcp", hostname, port };
  return Object.assign(told, {
    arrival: { info: { remoteAddr }, port: 10_000 },
    since: clock.now(),
    place: -1,
    leave: () => void told.left++,
  });
}

Deno.test("closedByPeer: connections in CLOSE_WAIT, IPv4, IPv6, and IPv4 in IPv6", () => {
  const found = closedByPeer([
    "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n",
    line(LOCAL, "0200007F:D431", "08"),
    line(LOCAL, "0200007F:D432", "01"),
    line("00000000000000000000000001000000:2710", "B80D01200000000000000000010000FE:0001", "08"),
    line("0000000000000000FFFF00000100007F:2710", "0000000000000000FFFF00000100007F:FFFF", "08"),
  ].join(""));
  assertEquals([...found], ["10000 127.0.0.2 54321", "10000 2001:db8::fe00:1 1", "10000 127.0.0.1 65535"]);
});

Deno.test("Leavers: who has waited for long and whose connection is closed leaves; nobody else does", async () => {
  const clock = new ManualClock();
  let looks = 0;
  const leavers = new Leavers(clock, () => {
    looks++;
    return Promise.resolve(line(LOCAL, "0100007F:0007", "08") + line("0100007F:2711", "0100007F:0008", "08"));
  }, 250);
  const [gone, otherPort, stays] = [client(7, clock), client(8, clock), client(9, clock)];
  for (const one of [gone, otherPort, stays]) leavers.watch(one);
  clock.advance(200);
  const late = client(7, clock);
  leavers.watch(late);
  clock.advance(50);
  await settle();
  assertEquals([looks, gone.left, otherPort.left, stays.left, late.left], [1, 1, 0, 0, 0]);
  leavers.unwatch(gone);
  clock.advance(250);
  await settle();
  assertEquals([looks, gone.left, late.left], [2, 1, 1]);
  for (const one of [otherPort, stays, late]) leavers.unwatch(one);
  clock.advance(250);
  await settle();
  clock.advance(10_000);
  assertEquals([looks, leavers.size], [2, 0]);
});

Deno.test("Leavers: one that was answered during the look does not leave", async () => {
  const clock = new ManualClock();
  const table = Promise.withResolvers<string>();
  const leavers = new Leavers(clock, () => table.promise, 250);
  const one = client(7, clock);
  leavers.watch(one);
  clock.advance(250);
  leavers.unwatch(one);
  table.resolve(line(LOCAL, "0100007F:0007", "08"));
  await settle();
  assertEquals(one.left, 0);
  leavers.close();
});

Deno.test("Leavers: a look takes at most a twentieth of the time, and where there is no table there are none", async () => {
  const clock = new ManualClock();
  let looks = 0;
  let table = Promise.withResolvers<string>();
  const leavers = new Leavers(clock, () => {
    looks++;
    return table.promise;
  }, 250);
  leavers.watch(client(7, clock));
  clock.advance(250);
  clock.advance(100);
  table.resolve("");
  await settle();
  table = Promise.withResolvers();
  clock.advance(1_990);
  await settle();
  assertEquals(looks, 1);
  clock.advance(20);
  await settle();
  assertEquals(looks, 2);
  leavers.close();
  const without = new Leavers(clock, () => Promise.reject(new Error("no such file")), 250);
  without.watch(client(7, clock));
  clock.advance(250);
  await settle();
  without.watch(client(8, clock));
  assertEquals(without.size, 0);
});

Deno.test({
  name: "systemConnections: a connection that its client has closed is in the table",
  ignore: Deno.build.os !== "linux",
  fn: async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const connecting = Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port });
    using accepted = await listener.accept();
    const opened = await connecting;
    const key = `${listener.addr.port} 127.0.0.1 ${opened.localAddr.port}`;
    assertEquals(closedByPeer(await systemConnections()).has(key), false);
    opened.close();
    await until(async () => closedByPeer(await systemConnections()).has(key), "its end has arrived");
    assertEquals((accepted.remoteAddr as Deno.NetAddr).hostname, "127.0.0.1");
  },
});
