/** What the last five minutes were like, second by second, for the sparklines. */

export const KEPT_S = 300;
const RATIO_OVER_S = 10; // a second alone may have no touch to take a ratio of
const NOTHING = { active: null, devices: null, api_keys: null };

/** One sample a second; seconds that were missed are gaps. */
export class Pulse {
  #samples = [];
  #now = null;
  #totals = {};
  service = null;
  tracking = true;

  get samples() {
    return this.#samples;
  }

  /** Take in a `tick` and how many devices were active in it. */
  tick(now, active) {
    const last = this.#samples.at(-1)?.second ?? 0;
    // By the time in between: rounded for itself, one of them may be a second twice, or none.
    const second = last + Math.max(1, Math.round(now - (this.#now ?? now - 1)));
    this.#now = now;
    for (let missed = Math.max(last + 1, second - KEPT_S); missed < second; missed += 1) {
      this.#samples.push({ second: missed, ...NOTHING });
    }
    this.#samples.push({ second, ...NOTHING, active });
    this.#samples.splice(0, this.#samples.length - KEPT_S);
  }

  /** Take in a `service` event, which belongs to the last tick. */
  serve(service) {
    this.tracking = "devices" in service;
    this.service = this.tracking ? service : null;
    const sample = this.#samples.at(-1);
    if (!sample || !this.tracking) return;
    for (const target of ["devices", "api_keys"]) {
      const { touches, coalesced, lag_s, flush_s } = service[target];
      const before = this.#totals[target];
      this.#totals[target] = { touches, coalesced, second: sample.second };
      const elapsed = before ? sample.second - before.second : 0;
      const restarted = before && touches < before.touches;
      const known = elapsed > 0 && !restarted;
      sample[target] = {
        touches: known ? (touches - before.touches) / elapsed : null,
        lag: lag_s,
        flush: flush_s,
        totals: { touches, coalesced },
      };
      sample[target].coalesced = this.#ratio(target);
    }
  }

  #ratio(target) {
    const window = this.#samples.slice(-RATIO_OVER_S).map((sample) => sample[target]?.totals);
    const first = window.find(Boolean);
    const last = window.at(-1);
    const touches = last.touches - first.touches;
    return touches > 0 ? (last.coalesced - first.coalesced) / touches : null;
  }
}
