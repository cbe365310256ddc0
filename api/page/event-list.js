/** Stored events of a group or a device, newest first: the latest at the start, then those of the stream. */

import { listEvents } from "./requests.js";

const RETRY_MS = 15_000;

/** A bounded list of events; calls back when it has changed. */
export class EventList {
  events = [];
  problem = "";
  isLoaded = false;
  isComplete = false; // there are no older events than these
  #asking = false;
  #retryAt = 0;

  /**
   * @param {string} key the API key.
   * @param {{group_id?: string, device_id?: string}} query which events.
   * @param {number} kept how many events at most.
   * @param {function(): void} onChange
   */
  constructor(key, query, kept, onChange) {
    this.key = key;
    this.query = query;
    this.kept = kept;
    this.onChange = onChange;
    this.load();
  }

  /** Position of the newest event that is known; 0 if none is. */
  get newest() {
    return Number(this.events[0]?.event_id ?? 0);
  }

  /** Load the latest events again: some may have been missed. */
  async load() {
    if (this.#asking) return;
    this.#asking = true;
    try {
      const { events } = await listEvents(this.key, { ...this.query, take: "newest", limit: this.kept });
      this.isLoaded = true;
      this.isComplete = events.length < this.kept;
      this.problem = "";
      this.add(events);
    } catch (error) {
      this.problem = `The events cannot be shown: ${error.message}`;
      this.#retryAt = error.status >= 400 && error.status < 500 ? Infinity : performance.now() + RETRY_MS;
    }
    this.#asking = false;
    this.onChange();
  }

  /** Load them again if that has failed some time ago. */
  retry() {
    if (this.problem && performance.now() > this.#retryAt) this.load();
  }

  /**
   * Load the events after the newest one, as no stream brings them.
   * @returns {Promise<number>} how many there were, as far as a request returns them; 0 after an error.
   */
  async poll() {
    if (!this.isLoaded || this.#asking) return 0;
    try {
      const { events } = await listEvents(this.key, { ...this.query, after: this.newest, limit: 100 });
      this.add(events);
      return events.length;
    } catch {
      return 0; // the tab is hidden: the stream says what is wrong when it is visible again
    }
  }

  /** Add events, in any order; those that are known are no others. */
  add(events) {
    const all = new Map([...this.events, ...events].map((one) => [one.event_id, one]));
    const sorted = [...all.values()].sort((a, b) => Number(b.event_id) - Number(a.event_id));
    this.isComplete &&= sorted.length <= this.kept;
    this.events = sorted.slice(0, this.kept);
  }
}
