// SPDX-License-Identifier: Apache-2.0
// The page's files, which are parts of the program: what a browser gets, and what it may do with it.

import uplotCss from "uplot/dist/uPlot.min.css" with { type: "text" };
import uplotJs from "uplot/dist/uPlot.iife.min.js" with { type: "text" };
import html from "./page/index.html" with { type: "text" };
import css from "./page/page.css" with { type: "text" };
import fleetJs from "./page/fleet.js" with { type: "text" };
import plotsJs from "./page/plots.js" with { type: "text" };
import streamJs from "./page/stream.js" with { type: "text" };
import explainJs from "./page/explain.js" with { type: "text" };
import pageJs from "./page/page.js" with { type: "text" };

const JS = "text/javascript; charset=utf-8";
const CSS = "text/css; charset=utf-8";

/** By what stands behind /page/. */
const FILES: Readonly<Record<string, readonly [type: string, text: string]>> = {
  "uplot.js": [JS, uplotJs],
  "uplot.css": [CSS, uplotCss],
  "page.css": [CSS, css],
  "fleet.js": [JS, fleetJs],
  "plots.js": [JS, plotsJs],
  "stream.js": [JS, streamJs],
  "explain.js": [JS, explainJs],
  "page.js": [JS, pageJs],
};

/** Nothing from elsewhere, and nobody frames it. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-cache",
};

/** The page itself. */
export function page(): Response {
  return new Response(html, { headers: { ...HEADERS, "content-type": "text/html; charset=utf-8" } });
}

/** One of its files; undefined when there is none of that name. */
export function pageFile(name: string): Response | undefined {
  if (!Object.hasOwn(FILES, name)) return undefined;
  const [type, text] = FILES[name];
  return new Response(text, { headers: { ...HEADERS, "content-type": type } });
}
