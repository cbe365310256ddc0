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
  busy = false;
  #captured = 0;
  #next = 0;

  constructor(key, deviceId, onChange) {
    this.key = key;
    this.deviceId = deviceId;
    this.onChange = onChange;
    this.#load().then((reports) => {
      this.more = reports?.length === PIECE;
      onChange();
    });
  }

  /** Ask for older reports than there are. */
  async older() {
    const reports = await this.#load(this.reports.at(-1)?.timestamp);
    this.more = reports === null || reports.length === PIECE;
    this.onChange();
  }

  /** Ask for newer ones if the device is said to have moved, but not too often. */
  moved(location) {
    if (!location || location[3] <= this.#captured || performance.now() < this.#next) return;
    this.#captured = location[3];
    if (this.loaded && location[3] !== this.reports[0]?.timestamp) this.#load();
  }

  async #load(before) {
    this.busy = true;
    this.#next = performance.now() + REFRESH_MS;
    this.onChange();
    try {
      const reports = await listReports(this.key, this.deviceId, PIECE, before);
      const all = new Map([...this.reports, ...reports].map((one) => [one.timestamp, one]));
      this.reports = [...all.values()].sort((a, b) => b.timestamp - a.timestamp);
      this.loaded = true;
      this.problem = "";
      return reports;
    } catch (error) {
      this.problem = `The track cannot be shown: ${error.message}`;
      return null;
    } finally {
      this.busy = false;
      this.onChange();
    }
  }
}
