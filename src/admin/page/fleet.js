// SPDX-License-Identifier: Apache-2.0
// The table of endpoints, which changes row by row, and the small tables beside it.

import { seconds } from "./plots.js";

/** What stands for a state beside its name: nothing is told by color alone. */
const SIGNS = { available: "●", trial: "◐", draining: "◌", unhealthy: "✕", ejected: "✕", unused: "◌" };
const CLASSES = { available: "good", trial: "warn", draining: "warn", unhealthy: "bad", ejected: "bad" };
const ORDERS = {
  name: () => 0,
  state: (a, b) => (a.state === "available") - (b.state === "available") || (a.state < b.state ? -1 : 1),
  load: (a, b) => b.in_flight + b.remote_in_flight - a.in_flight - a.remote_in_flight,
  ttft: (a, b) => (b.ttft ?? -1) - (a.ttft ?? -1),
};

const share = (value) => value === null ? "–" : `${(value * 100).toFixed(0)} %`;
const count = (value) => value === null ? "–" : String(value);

/** Text and class of each cell behind the first. */
function cellsOf(one) {
  const sign = SIGNS[one.state] ?? "";
  return [
    [`${sign} ${one.state}${one.why === "" ? "" : `: ${one.why}`}`, CLASSES[one.state] ?? ""],
    [count(one.in_flight), "number"],
    [count(one.remote_in_flight), "number"],
    [count(one.running), "number"],
    [count(one.waiting), "number"],
    [share(one.kv_usage), "number"],
    [share(one.prefix_hit_ratio), "number"],
    [one.ttft === null ? "–" : seconds(one.ttft), "number"],
    [count(one.dispatched), "number"],
    [count(one.failed), one.failed > 0 ? "number warn" : "number"],
    [one.labels, "labels"],
  ];
}

const keyOf = ({ cluster, endpoint }) => `${cluster} ${endpoint}`;

export class FleetTable {
  constructor() {
    this.body = document.querySelector("#endpoints tbody");
    this.filter = document.getElementById("fleet-filter");
    this.order = document.getElementById("fleet-order");
    this.summary = document.getElementById("fleet-summary");
    this.news = document.getElementById("fleet-news");
    /** Row and endpoint by key. */
    this.rows = new Map();
    this.filter.addEventListener("input", () => this.arrange());
    this.order.addEventListener("change", () => this.arrange());
  }

  take({ whole, changed, gone }) {
    if (whole) {
      this.rows.clear();
      this.body.replaceChildren();
    }
    const news = [];
    for (const key of gone) {
      this.rows.get(key)?.row.remove();
      this.rows.delete(key);
      news.push(`${key} left`);
    }
    let arrange = whole || gone.length > 0 || this.order.value !== "name";
    for (const one of changed) {
      const key = keyOf(one);
      const known = this.rows.get(key);
      if (known === undefined) {
        arrange = true;
        this.rows.set(key, { row: rowOf(one), one, cells: cellsOf(one) });
        if (!whole) news.push(`${key} joined`);
      } else {
        if (known.one.state !== one.state) news.push(`${key} is ${one.state}`);
        update(known, one);
      }
    }
    if (arrange) this.arrange();
    this.sum();
    if (news.length > 0) this.news.textContent = `${new Date().toLocaleTimeString()}: ${news.slice(0, 5).join(", ")}`;
  }

  arrange() {
    const words = this.filter.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    const compare = ORDERS[this.order.value];
    const all = [...this.rows.values()].sort((a, b) =>
      compare(a.one, b.one) || (keyOf(a.one) < keyOf(b.one) ? -1 : keyOf(a.one) > keyOf(b.one) ? 1 : 0)
    );
    const shown = all.filter(({ one }) => {
      const text = `${one.cluster} ${one.endpoint} ${one.state} ${one.labels}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    this.body.replaceChildren(...shown.map(({ row }) => row));
    this.sum(shown.length);
  }

  sum(shown = this.body.childElementCount) {
    const states = new Map();
    for (const { one: { state } } of this.rows.values()) states.set(state, (states.get(state) ?? 0) + 1);
    const parts = [...states].sort().map(([state, number]) => `${SIGNS[state] ?? ""} ${number} ${state}`);
    const all = this.rows.size;
    const some = shown === all ? "" : `, ${shown} shown`;
    this.summary.textContent = `${all} endpoint${all === 1 ? "" : "s"}${some}: ${parts.join(", ") || "none"}`;
  }
}

function rowOf(one) {
  const row = document.createElement("tr");
  const name = document.createElement("th");
  name.scope = "row";
  name.append(one.endpoint, " ");
  const cluster = document.createElement("small");
  cluster.textContent = one.cluster;
  name.append(cluster);
  row.append(name);
  for (const [text, className] of cellsOf(one)) {
    const cell = document.createElement("td");
    cell.textContent = text;
    cell.className = className;
    row.append(cell);
  }
  return row;
}

// Only cells whose text is another one.
function update(known, one) {
  const cells = cellsOf(one);
  cells.forEach(([text, className], i) => {
    if (known.cells[i][0] === text) return;
    const cell = known.row.children[i + 1];
    cell.textContent = text;
    cell.className = className;
  });
  known.one = one;
  known.cells = cells;
}

/** Fills a table's body; the first of a row's texts is its head. */
export function fill(table, rows) {
  table.querySelector("tbody").replaceChildren(...rows.map(({ texts, className = "" }) => {
    const row = document.createElement("tr");
    row.className = className;
    texts.forEach((text, i) => {
      const cell = document.createElement(i === 0 ? "th" : "td");
      if (i === 0) cell.scope = "row";
      else cell.className = "number";
      cell.textContent = text;
      row.append(cell);
    });
    return row;
  }));
}
