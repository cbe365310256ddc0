/** The events of the group and the device that the page shows; announces new ones. */

import { EventList } from "./event-list.js";
import { News } from "./news.js";

const GROUP_EVENTS = 50;
const DEVICE_EVENTS = 200;

/** The events of one group, while its stream is followed. */
export class WatchedEvents {
  device = null; // the list of the shown device
  #news = new News();

  /**
   * @param {string} key the API key.
   * @param {string} group
   * @param {function(): void} onChange
   */
  constructor(key, group, onChange) {
    this.key = key;
    this.onChange = onChange;
    this.group = new EventList(key, { group_id: group }, GROUP_EVENTS, onChange);
  }

  /** One line about what is new. */
  get line() {
    return this.#news.line;
  }

  /** What precedes the title of the page. */
  get mark() {
    return this.#news.mark;
  }

  /** Show the events of a device, or of none. */
  show(deviceId) {
    if (!deviceId) this.device = null;
    else if (this.device?.query.device_id !== deviceId) {
      this.device = new EventList(this.key, { device_id: deviceId }, DEVICE_EVENTS, this.onChange);
    }
  }

  /**
   * Handle an `events` event of the stream: all events are counted, the newest are in it.
   * @param {function(): void} onMissed called while the page is hidden.
   */
  add({ counts, events }, onMissed) {
    this.group.add(events);
    this.device?.add(events.filter((one) => one.device_id === this.device.query.device_id));
    if (!document.hidden) return this.#news.add(counts, events);
    this.#news.miss(Object.values(counts).reduce((sum, count) => sum + count, 0));
    onMissed();
  }

  /** Handle a tick. */
  tick(snapshot) {
    this.group.retry();
    this.device?.retry();
    if (!document.hidden) this.#news.update(snapshot.group, (one) => snapshot.nameOfEvent(one));
  }

  /** Load again, as some events may have been missed. */
  reload() {
    this.group.load();
    this.device?.load();
  }

  /** Count what is new while there is no stream. */
  async poll() {
    this.#news.miss(await this.group.poll());
  }

  /** The reader has seen what is new. */
  seen() {
    this.#news.seen();
  }
}
