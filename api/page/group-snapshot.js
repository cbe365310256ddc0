/** The model: a group's devices as the stream describes them, by the server's clock. */

import { nameOf, searchable } from "./formatting.js";

export const STATES = ["online", "idle", "offline", "never"];

const MAX_NAMES = 1000;
const collator = new Intl.Collator(undefined, { numeric: true });

/** The devices of one group, from one `hello` to the next. */
export class GroupSnapshot {
  #byNumber = new Map();
  #byId = new Map();
  #names = new Map(); // of devices that are gone, as events still name them
  #ranked = true;

  /** @param {object} hello the stream's first event. */
  constructor(hello) {
    this.group = hello.group_id;
    this.allGroups = hello.all_groups;
    this.version = hello.version;
    this.expected = hello.devices; // in the first snapshot
    this.of = hello.of;
    this.now = hello.now;
    this.stale = false; // true while the service cannot reach its database
    this.presenceEnabled = hello.presence_enabled; // whether offline is stored when it is found
  }

  get size() {
    return this.#byId.size;
  }

  get devices() {
    return this.#byId.values();
  }

  /** Return a device by its id; undefined if it is not in this group. */
  find(id) {
    return this.#byId.get(id);
  }

  /** Add the devices of a `devices` event, which are new or have changed. */
  add(devices) {
    for (const { n, device_id: id, display_name, platform, seen, location, ...one } of devices) {
      const name = nameOf(display_name);
      const { presence, presence_since: since } = one;
      const device = { n, id, name, platform, seen, location, presence, since, rank: 0 };
      device.searched = searchable(name);
      this.#byNumber.set(n, device);
      this.#byId.set(id, device);
    }
    this.#ranked = false;
  }

  /**
   * Apply the changes of a `tick` event.
   * @returns {number} how many devices were active.
   */
  tick({ now, of = this.of, stale = false, seen = [], presence = [], moved = [], gone = [] }) {
    this.now = now;
    this.of = of;
    this.stale = stale;
    const active = new Set();
    for (const [second, numbers] of seen) {
      for (const n of numbers) {
        const device = this.#byNumber.get(n);
        if (!device) continue;
        device.seen = Math.max(device.seen ?? 0, second);
        active.add(n);
      }
    }
    for (const [state, since, numbers] of presence) {
      for (const n of numbers) {
        const device = this.#byNumber.get(n);
        if (device) Object.assign(device, { presence: state, since });
      }
    }
    for (const [n, ...location] of moved) {
      const device = this.#byNumber.get(n);
      if (device) device.location = location;
    }
    for (const n of gone) {
      const device = this.#byNumber.get(n);
      if (device) this.#remember(device);
      this.#byId.delete(device?.id);
      this.#byNumber.delete(n);
    }
    return active.size;
  }

  /** Return the name of an event's device, or the beginning of its id. */
  nameOfEvent({ device_id: id }) {
    return this.#byId.get(id)?.name ?? this.#names.get(id) ?? `device ${id.slice(0, 8)}`;
  }

  #remember({ id, name }) {
    this.#names.delete(id);
    this.#names.set(id, name);
    if (this.#names.size > MAX_NAMES) this.#names.delete(this.#names.keys().next().value);
  }

  /** Return how long ago a device was seen, in seconds; null if it never was. */
  ageOf(device) {
    return device.seen === null ? null : Math.max(0, this.now - device.seen);
  }

  /** Update every device's rank by name, so that sorting need not compare texts, which is slow. */
  rank() {
    if (this.#ranked) return;
    const byName = [...this.#byId.values()].sort((a, b) => collator.compare(a.name, b.name));
    byName.forEach((device, rank) => {
      device.rank = rank;
    });
    this.#ranked = true;
  }
}
