// SPDX-License-Identifier: Apache-2.0
// Decisions, those that were taken and the one that would be: candidates with what they were scored by.

import { fill } from "./fleet.js";

const HEADS = ["Endpoint", "Score", "In flight", "Cached bytes", "Has room"];

/** A table of candidates, the chosen one marked. */
export function candidateTable(candidates, chosen) {
  const table = document.createElement("table");
  const head = document.createElement("tr");
  for (const [i, text] of HEADS.entries()) {
    const cell = document.createElement("th");
    cell.scope = "col";
    cell.textContent = text;
    if (i > 0) cell.className = "number";
    head.append(cell);
  }
  const [thead, tbody] = [document.createElement("thead"), document.createElement("tbody")];
  thead.append(head);
  table.append(thead, tbody);
  fill(
    table,
    candidates.map(({ endpoint, score, in_flight, cached_bytes, has_room }) => ({
      texts: [
        endpoint,
        score === null ? "–" : Number(score).toFixed(3),
        String(Math.round(in_flight * 10) / 10),
        String(cached_bytes),
        has_room === null || has_room === undefined ? "–" : has_room ? "yes" : "no",
      ],
      className: endpoint === chosen ? "chosen" : "",
    })),
  );
  const scroll = document.createElement("div");
  scroll.className = "scroll";
  scroll.append(table);
  return scroll;
}

const SHOWN = 30;

/** The time of the day, and the day where it is another. */
function moment(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  return today ? at.toLocaleTimeString() : at.toLocaleString();
}

export class DecisionList {
  constructor() {
    this.place = document.getElementById("decision-list");
    const hold = document.getElementById("decisions-hold");
    this.held = false;
    hold.addEventListener("click", () => {
      this.held = !this.held;
      hold.setAttribute("aria-pressed", String(this.held));
    });
  }

  /** New decisions, or all that are kept. */
  take({ whole, decisions }) {
    if (this.held) return;
    if (whole) this.place.replaceChildren();
    for (const decision of decisions) this.#add(decision);
  }

  #add(decision) {
    const details = document.createElement("details");
    const summary = document.createElement("summary");
    const { time, model, tenant, endpoint, first_choice, queued_ms, prompt_bytes, cached_bytes } = decision;
    const facts = [
      `${prompt_bytes} prompt bytes`,
      `${cached_bytes} of them presumed in its cache`,
      ...(queued_ms >= 1 ? [`waited ${Math.round(queued_ms)} ms`] : []),
      ...(first_choice !== endpoint ? [`${first_choice ?? "nobody"} would have been chosen when it came`] : []),
    ];
    const who = tenant === "" || tenant === "anonymous" ? "" : ` for ${tenant}`;
    summary.textContent = `${moment(time)} ${model}${who} → ${endpoint}: ${facts.join(", ")}`;
    details.append(summary);
    details.addEventListener("toggle", () => {
      if (details.childElementCount === 1) details.append(...this.content(decision));
    });
    this.place.prepend(details);
    while (this.place.childElementCount > SHOWN) this.place.lastElementChild.remove();
  }

  content({ candidates, candidate_count, endpoint, algorithm, request_id, predicted_ttft_ms, decision_ms }) {
    const text = document.createElement("p");
    const more = candidate_count > candidates.length
      ? ` The best ${candidates.length} of ${candidate_count} candidates.`
      : "";
    const predicted = predicted_ttft_ms === null
      ? ""
      : ` First token predicted after ${Math.round(predicted_ttft_ms)} ms.`;
    text.textContent = `Request ${request_id}, by ${algorithm}, in ${
      (decision_ms * 1_000).toFixed(0)
    } µs.${predicted}${more}`;
    text.className = "quiet";
    return [text, candidateTable(candidates, endpoint)];
  }
}

/** Shows what /explain answered, or its error. */
export function showExplained(place, answer) {
  const text = document.createElement("p");
  if (answer.error) {
    text.className = "bad";
    text.textContent = answer.error.message;
    return place.replaceChildren(text);
  }
  const { chosen, cluster, policy, prompt, candidates, would_wait } = answer;
  text.textContent =
    `${chosen ?? "Nobody"} of cluster ${cluster}, by ${policy.algorithm}, for ${prompt.bytes} prompt ` +
    `bytes${would_wait ? "; the request would wait for it" : ""}.`;
  place.replaceChildren(text, candidateTable(candidates, chosen));
}
