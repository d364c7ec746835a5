// SPDX-License-Identifier: Apache-2.0
// The admin's page in a real browser. AIGW_SCREENSHOTS=FOLDER keeps pictures of it.

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import type { Page } from "playwright-core";
import { startBrowser } from "./browser.ts";
import { until } from "../support/until.ts";
import { chat, post, startEngineProcess, startEngines, startTestGateway } from "../support/gateway.ts";

const OPTIONS = { sanitizeOps: false, sanitizeResources: false }; // what the browser's driver keeps open
const SCREENSHOTS = Deno.env.get("AIGW_SCREENSHOTS");
const LONG = { timeout: 60_000 };

/** What went wrong in a page. */
function errorsOf(page: Page): string[] {
  const errors: string[] = [];
  page.on("console", (message) => {
    // That /explain answers 404 is what it is asked for.
    if (/status of 404/.test(message.text()) && message.location().url.endsWith("/explain")) return;
    if (message.type() === "error" || message.type() === "warning") errors.push(message.text());
  });
  page.on("pageerror", (error) => errors.push(String(error)));
  return errors;
}

/** Waits until the table of endpoints has so many rows. */
const rows = (page: Page, count: number) =>
  until(async () => await page.locator("#endpoints tbody tr").count() === count, `there are ${count} rows`);

/** Waits until what is shown somewhere is as it should be. */
const text = (page: Page, selector: string, wanted: RegExp) =>
  until(async () => wanted.test((await page.textContent(selector)) ?? ""), `${selector} shows ${wanted}`);

async function picture(page: Page, name: string): Promise<void> {
  if (SCREENSHOTS) await page.screenshot({ path: `${SCREENSHOTS}/${name}.png`, fullPage: true });
}

/** Whether it is no wider than its window. */
const fits = (page: Page) => page.evaluate<boolean>("document.documentElement.scrollWidth <= innerWidth");

Deno.test(
  "page: the fleet, traffic, decisions and explanations, live, at every size, dark and light",
  OPTIONS,
  async () => {
    const browser = await startBrowser();
    if (browser === undefined) return;
    const own = await startEngineProcess(["--speed", "20"]);
    await using engines = startEngines(2, { speed: 20 });
    await using gateway = await startTestGateway([
      ...engines.map(({ address }) => ({ address, labels: { tier: "gold" } })),
      own,
    ]);
    const prompt = "Tell me of the cache. ".repeat(100);
    for (let i = 0; i < 12; i++) {
      await (await post(gateway.origin, chat(`${prompt}${i % 3}`, { stream: i % 2 === 0, max_tokens: 8 }))).text();
    }
    try {
      const page = await browser.newPage({ viewport: { width: 1_280, height: 900 } });
      const errors = errorsOf(page);
      await page.goto(gateway.admin);
      await rows(page, 3);
      assertEquals(await page.textContent("#ready"), "● ready");
      assertMatch((await page.textContent("#fleet-summary"))!, /^3 endpoints: ● 3 available$/);
      // Decisions are told once somebody watches.
      const shown = page.locator("#decision-list details");
      while (await shown.count() === 0) await (await post(gateway.origin, chat(prompt, { stream: true }))).text();
      await page.click("#decisions-hold");
      await shown.first().locator("summary").click();
      await until(async () => await shown.first().locator("tbody tr").count() === 3, "its candidates are shown");
      assertEquals(await shown.first().locator("tr.chosen").count(), 1);
      // The form explains what it is given, right or wrong, without a mouse.
      await page.focus("#explain-body");
      assertStringIncludes(await page.inputValue("#explain-body"), '"model": "m"');
      await page.keyboard.press("Tab");
      await page.keyboard.press("Enter");
      await page.waitForSelector("#explain-result tr.chosen", LONG);
      await page.fill("#explain-body", chat("x", { model: "nothing" }));
      await page.click("#explain-form button");
      await page.waitForSelector("#explain-result .bad", LONG);
      assertStringIncludes((await page.textContent("#explain-result"))!, "does not exist");
      await page.click("#configuration-details summary");
      assertStringIncludes((await page.textContent("#configuration-text"))!, '"model_mapping_rule"');
      await text(page, "#requests-now", /./);
      for (const scheme of ["light", "dark"] as const) {
        await page.emulateMedia({ colorScheme: scheme });
        for (const [width, height] of [[320, 700], [1_280, 900], [3_840, 2_160]]) {
          await page.setViewportSize({ width, height });
          await page.waitForTimeout(100);
          assert(await fits(page), `${width} pixels are enough`);
          await picture(page, `${scheme}-${width}`);
        }
      }
      await page.setViewportSize({ width: 1_280, height: 900 });
      // An engine that dies is seen.
      await own.kill();
      await text(page, "#endpoints", /✕ unhealthy: .*(connect|refused)/i);
      assertStringIncludes((await page.textContent("#fleet-news"))!, "unhealthy");
      await picture(page, "engine-down");
      assertEquals(errors, []);
    } finally {
      await browser.close();
    }
  },
);

Deno.test(
  "page: a thousand endpoints can be looked through, and their changes cost only themselves",
  OPTIONS,
  async () => {
    const browser = await startBrowser();
    if (browser === undefined) return;
    const endpoints = Array.from({ length: 1_000 }, (_, i) => ({
      address: { hostname: `10.0.${Math.floor(i / 250)}.${1 + i % 250}`, port: 8_000 },
      labels: { zone: i % 2 === 0 ? "even" : "odd" },
    }));
    await using gateway = await startTestGateway(endpoints, { probes: { enabled: false } });
    try {
      const page = await browser.newPage();
      const errors = errorsOf(page);
      await page.goto(gateway.admin);
      await rows(page, 1_000);
      await page.evaluate(`
      globalThis.changes = 0;
      new MutationObserver((changes) => globalThis.changes += changes.length)
        .observe(document.querySelector("#endpoints tbody"), { childList: true, subtree: true, characterData: true });
    `);
      const drain = (action: string) =>
        fetch(`${gateway.admin}/endpoints/10.0.3.250:8000/${action}`, {
          method: "POST",
          headers: { "x-aigw-admin": "1" },
        })
          .then((response) => response.body?.cancel());
      await drain("drain");
      await text(page, "#endpoints", /draining/);
      const changes = await page.evaluate<number>("globalThis.changes");
      assert(changes < 20, `${changes} changes for one endpoint`);
      await page.fill("#fleet-filter", "10.0.3. odd");
      await rows(page, 125);
      await page.selectOption("#fleet-order", "state");
      await page.fill("#fleet-filter", "10.0.3.");
      assertStringIncludes((await page.locator("#endpoints tbody tr").first().textContent())!, "10.0.3.250:8000");
      assertEquals(errors, []);
    } finally {
      await browser.close();
    }
  },
);

Deno.test("page: it asks for the admin's token, and says when that is wrong", OPTIONS, async () => {
  const browser = await startBrowser();
  if (browser === undefined) return;
  Deno.env.set("AIGW_TEST_ADMIN_TOKEN", "let-me-in");
  await using engines = startEngines(1, { instant: true });
  await using gateway = await startTestGateway(engines, {
    admin: { listen: "127.0.0.1:0", token_env: "AIGW_TEST_ADMIN_TOKEN" },
  });
  try {
    const page = await browser.newPage();
    await page.goto(gateway.admin);
    await page.waitForSelector("#token:not([hidden])", LONG);
    await page.fill("#token-value", "wrong");
    await page.keyboard.press("Enter");
    await text(page, "#token-error", /./);
    await page.fill("#token-value", "let-me-in");
    await page.keyboard.press("Enter");
    await rows(page, 1);
    assertEquals(await page.isHidden("#token"), true);
  } finally {
    await browser.close();
  }
});
