// prototype
import type { Random } from "../../test/support/seed.ts";
import type { Fleet, Job, RoutingPolicy } from "./simulator.ts";
import { BLOCK_TOKENS } from "./trace.ts";
export interface LateOptions { room: number; rate: number; slackS: number; charge: number; ageing: number; stepS: number; }
export const LATE: LateOptions = { room: 2048, rate: 8000, slackS: 0.5, charge: 3, ageing: 0.2, stepS: 0.02 };
export class Late implements RoutingPolicy {
  readonly pending: number[];
  readonly waiting: { job: Job; best: number; unc: number }[] = [];
  constructor(readonly fleet: Fleet, readonly random: Random, readonly o: LateOptions = LATE) { this.pending = fleet.engines.map(() => 0); }
  unc(job: Job, e: number): number { return Math.max(1, job.inputTokens - this.fleet.engines[e].cache.match(job.blocks) * BLOCK_TOKENS); }
  cost(unc: number, e: number): number { const { rate, charge, stepS } = this.o; return (this.pending[e] + unc) / rate + Math.ceil((this.pending[e]+unc)/2048) * stepS + charge * unc / rate; }
  arrive(job: Job): void {
    const n = this.fleet.engines.length;
    let best = -1, bc = Infinity, bestRoom = -1, brc = Infinity, bu = 0, bru = 0;
    const off = this.random.below(n);
    for (let k = 0; k < n; k++) { const e = (k + off) % n; const u = this.unc(job, e); const c = this.cost(u, e) + 0.0005*this.fleet.inFlight[e]; if (c < bc) { bc = c; best = e; bu = u; } if (this.pending[e] < this.o.room && c < brc) { brc = c; bestRoom = e; bru = u; } }
    if (bestRoom >= 0 && (bestRoom === best || brc <= bc + this.o.slackS)) return this.send(job, bestRoom, bru);
    this.waiting.push({ job, best, unc: bu });
  }
  send(job: Job, e: number, unc: number): void { job.pendingTokens = unc; this.pending[e] += unc; this.fleet.send(job, e); }
  firstToken(job: Job): void { this.pending[job.engine] -= job.pendingTokens; this.fill(job.engine); }
  end(_: Job): void {}
  fill(e: number): void {
    while (this.pending[e] < this.o.room && this.waiting.length > 0) {
      let bi = -1, bp = Infinity, bu = 0;
      for (let i = 0; i < this.waiting.length; i++) {
        const { job } = this.waiting[i];
        const u = this.unc(job, e);
        // would it be cheaper to wait for its best?
        const here = this.cost(u, e);
        let bestElse = Infinity;
        if (this.waiting[i].best !== e) { const w = this.waiting[i]; bestElse = this.cost(this.unc(job, w.best), w.best); }
        if (here > bestElse + this.o.slackS) continue;
        const waited = (this.fleet.now - job.at) / 1000;
        const p = u / this.o.rate / (1 + this.o.ageing * waited);
        if (p < bp) { bp = p; bi = i; bu = u; }
      }
      if (bi < 0) return;
      const [w] = this.waiting.splice(bi, 1);
      this.send(w.job, e, bu);
    }
  }
}
