// SPDX-License-Identifier: Apache-2.0
// Puts the page together.

import { DecisionList, showExplained } from "./explain.js";
import { fill, FleetTable } from "./fleet.js";
import { Plots } from "./plots.js";
import { ask, follow, keepToken, TokenWanted } from "./stream.js";

const byId = (id) => document.getElementById(id);
const [plots, fleet, decisions] = [new Plots(), new FleetTable(), new DecisionList()];
let begun = 0;

function show(state) {
  byId("version").textContent = state.version;
  const ready = byId("ready");
  ready.textContent = state.not_ready === null ? "● ready" : `✕ not ready: ${state.not_ready}`;
  ready.className = state.not_ready === null ? "good" : "bad";
  fill(
    byId("clusters"),
    state.clusters.map(({ name, saturation, waiting }) => ({
      texts: [name, `${(saturation * 100).toFixed(0)} %${saturation >= 1 ? " full" : ""}`, String(waiting)],
    })),
  );
  fill(
    byId("tenants"),
    state.tenants.map(({ name, waiting, under_way, sent, refused }) => ({
      texts: [name, ...[waiting, under_way, sent, refused].map(String)],
    })),
  );
}

function connected(is, error) {
  const place = byId("connection");
  place.textContent = is ? "" : "✕ the connection is lost, trying again";
  place.className = is ? "" : "bad";
  byId("token").hidden = !(error instanceof TokenWanted);
  if (error instanceof TokenWanted) byId("token-error").textContent = error.message;
  if (is && begun++ === 0) asking(showConfiguration, "configuration-status");
}

// Followed until the admin wants another token; then the form begins again.
let following = false;

async function begin() {
  if (following) return;
  following = true;
  await follow("/events", {
    state: show,
    endpoints: (told) => fleet.take(told),
    traffic: (told) => plots.take(told),
    decisions: (told) => decisions.take(told),
  }, connected);
  following = false;
}

async function showConfiguration() {
  const { status, config } = await (await ask("/config")).json();
  const since = new Date(status.in_force_since).toLocaleString();
  const refused = status.last_error === null || status.last_error === undefined
    ? ""
    : ` A later change was refused: ${status.last_error}`;
  byId("configuration-status").textContent = `In force since ${since}.${refused}`;
  byId("configuration-text").textContent = JSON.stringify(config, null, 2);
  const model = Object.keys(config.model_mapping_rule ?? {})[0];
  const body = byId("explain-body");
  if (model !== undefined) body.value = body.value.replace('"model": ""', `"model": ${JSON.stringify(model)}`);
}

/** Does what asks the admin; says in a place of the page that it could not. */
async function asking(does, place) {
  try {
    await does();
  } catch (error) {
    byId(place).textContent = `This could not be asked: ${error.message || error}`;
  }
}

byId("configuration-details").addEventListener("toggle", ({ target }) => {
  if (target.open) asking(showConfiguration, "configuration-status");
});

byId("explain-form").addEventListener("submit", (event) => {
  event.preventDefault();
  asking(async () => {
    const answer = await (await ask("/explain", { method: "POST", body: byId("explain-body").value })).json();
    showExplained(byId("explain-result"), answer);
  }, "explain-result");
});

byId("token").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(byId("token-value").value);
  begin();
});

begin();
