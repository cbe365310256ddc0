/** The reports of the shown device, newest first, loaded page by page. */

import { listReports } from "./requests.js";

const PIECE = 500;
const REFRESH_MS = 3000;

/** The track of one device; calls back when it has changed. */
export class Track {
  reports = [];
  problem = "";
  loaded = false;
  more = false;
  busy = false; // while older reports are loaded
  #asking = false;
  #asked = -Infinity; // newest capture time that was requested
  #next = 0;

  constructor(key, deviceId, onChange) {
    this.key = key;
    this.deviceId = deviceId;
    this.onChange = onChange;
    this.#refresh();
  }

  /** Load the next older reports. */
  async older() {
    if (this.busy || this.#asking) return;
    this.busy = true;
    this.onChange();
    const reports = await this.#ask(this.reports.at(-1)?.timestamp);
    if (reports) {
      this.more = reports.length === PIECE;
      this.#merge(reports);
    }
    this.busy = false;
    this.onChange();
  }

  /** Load newer reports if a position is newer than all of them; limited in rate. */
  moved(location) {
    const captured = location?.[3] ?? -Infinity;
    const behind = !this.loaded || captured > Math.max(this.#asked, this.reports[0]?.timestamp ?? -Infinity);
    if (!behind || this.#asking || this.busy || performance.now() < this.#next) return;
    this.#refresh().then((isAnswered) => {
      if (isAnswered) this.#asked = Math.max(this.#asked, captured);
    });
  }

  async #refresh() {
    this.#asking = true;
    const reports = await this.#ask();
    this.#asking = false;
    this.#next = performance.now() + REFRESH_MS;
    if (reports) {
      const known = this.reports[0]?.timestamp ?? -Infinity;
      if (reports.length === PIECE && reports.at(-1).timestamp > known) {
        Object.assign(this, { reports: [], more: true }); // otherwise the track would have a gap
      }
      this.loaded = true;
      this.#merge(reports);
    }
    this.onChange();
    return this.loaded && reports !== null;
  }

  #merge(reports) {
    const all = new Map([...this.reports, ...reports].map((one) => [one.timestamp, one]));
    this.reports = [...all.values()].sort((a, b) => b.timestamp - a.timestamp);
  }

  /** Return reports, or null after an error, which is kept in `problem`. */
  async #ask(before) {
    try {
      const reports = await listReports(this.key, this.deviceId, PIECE, before);
      this.problem = "";
      return reports;
    } catch (error) {
      this.problem = `The track cannot be shown: ${error.message}`;
      if (error.status >= 400 && error.status < 500) this.loaded = true; // a retry would fail in the same way
      return null;
    }
  }
}
