/** Statistics of the last five minutes, one sample a second, for the sparklines. */

export const KEPT_S = 300;
const RATIO_OVER_S = 10; // a single second may have no touches, so no ratio

/** One sample a second; missed seconds are gaps. The targets are those that the service sends. */
export class TrackerStats {
  #samples = [];
  #now = null;
  #totals = new Map();
  targets = []; // as in the last `service` event
  isTracking = true;

  get samples() {
    return this.#samples;
  }

  /** Add the sample of a `tick`; `active` is the number of devices that were active in it. */
  tick(now, active) {
    const last = this.#samples.at(-1)?.second ?? 0;
    // Rounding each time by itself would give some seconds twice and others not at all.
    const second = last + Math.max(1, Math.round(now - (this.#now ?? now - 1)));
    this.#now = now;
    for (let missed = Math.max(last + 1, second - KEPT_S); missed < second; missed += 1) {
      this.#samples.push({ second: missed, active: null, targets: {} });
    }
    this.#samples.push({ second, active, targets: {} });
    this.#samples.splice(0, this.#samples.length - KEPT_S);
  }

  /** Add a `service` event to the sample of the last tick. */
  serve({ targets }) {
    this.targets = targets;
    this.isTracking = targets.length > 0;
    const sample = this.#samples.at(-1);
    if (!sample) return;
    for (const { name, touches, coalesced, lag_s, flush_s } of targets) {
      const before = this.#totals.get(name);
      this.#totals.set(name, { touches, second: sample.second });
      const elapsed = before ? sample.second - before.second : 0;
      const isKnown = elapsed > 0 && touches >= before.touches; // fewer: the service restarted
      sample.targets[name] = {
        touches: isKnown ? (touches - before.touches) / elapsed : null,
        lag: lag_s,
        flush: flush_s,
        totals: { touches, coalesced },
      };
      sample.targets[name].coalesced = this.#coalescedRatio(name);
    }
  }

  /**
   * Return the values of one statistic, one a second, null where there is none.
   * @param {string} name of the target.
   * @param {"touches"|"coalesced"|"lag"|"flush"} statistic
   */
  values(name, statistic) {
    return this.#samples.map(({ targets }) => targets[name]?.[statistic] ?? null);
  }

  #coalescedRatio(name) {
    const window = this.#samples.slice(-RATIO_OVER_S).map(({ targets }) => targets[name]?.totals);
    const first = window.find(Boolean);
    const last = window.at(-1);
    const touches = last.touches - first.touches;
    return touches > 0 ? (last.coalesced - first.coalesced) / touches : null;
  }
}
