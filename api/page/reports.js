/** The reports of the device that is being looked at, newest first, as far back as was asked for. */

import { listReports } from "./requests.js";

const PIECE = 500;
const REFRESH_MS = 3000;

/** The track of one device; it says when there is something new to draw. */
export class Track {
  reports = [];
  problem = "";
  loaded = false;
  more = false;
  busy = false; // asking for older ones
  #asking = false;
  #asked = -Infinity; // up to which capture time
  #next = 0;

  constructor(key, deviceId, onChange) {
    this.key = key;
    this.deviceId = deviceId;
    this.onChange = onChange;
    this.#refresh();
  }

  /** Ask for older reports than there are. */
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

  /** Ask for newer ones if a position is newer than all there are, but not too often. */
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
        Object.assign(this, { reports: [], more: true }); // or there would be a hole
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

  /** Return reports, or null if the service gives none: then `problem` says why. */
  async #ask(before) {
    try {
      const reports = await listReports(this.key, this.deviceId, PIECE, before);
      this.problem = "";
      return reports;
    } catch (error) {
      this.problem = `The track cannot be shown: ${error.message}`;
      if (error.status >= 400 && error.status < 500) this.loaded = true; // it would say so again
      return null;
    }
  }
}
