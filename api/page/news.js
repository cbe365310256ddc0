/** One line about new events for readers and screen readers, and their number while the tab is hidden. */

import { countsText, eventText } from "./event-text.js";
import { clockText } from "./formatting.js";

const LINE_EVERY_MS = 5000; // more often, a screen reader would read nothing else
const MAX_COUNTED = 99;

/** What is new since the page was opened; only counts and one event are kept. */
export class News {
  line = "";
  #unseen = 0;
  #counts = {};
  #last = null;
  #lineAt = -Infinity;

  /** Add the new events of a tick, or some that were missed. */
  add(counts, events) {
    for (const [type, count] of Object.entries(counts)) {
      this.#counts[type] = (this.#counts[type] ?? 0) + count;
    }
    this.#last = events.at(-1);
  }

  /**
   * Change the line if something is new and the last line has stood for some seconds.
   * @param {string} group the group that is shown.
   * @param {function(object): string} nameOf the name of an event's device.
   */
  update(group, nameOf) {
    const total = Object.values(this.#counts).reduce((sum, count) => sum + count, 0);
    if (!total || performance.now() - this.#lineAt < LINE_EVERY_MS) return;
    const { at } = this.#last;
    this.line =
      total === 1
        ? `${clockText(Date.parse(at) / 1000)}: ${nameOf(this.#last)} ${eventText(this.#last, group)}`
        : countsText(this.#counts);
    this.#counts = {};
    this.#last = null;
    this.#lineAt = performance.now();
  }

  /** Count events that come while the page is hidden. */
  miss(count) {
    this.#unseen += count;
  }

  /** The reader is back. */
  seen() {
    this.#unseen = 0;
  }

  /** What precedes the title of the page. */
  get mark() {
    if (!this.#unseen) return "";
    return this.#unseen > MAX_COUNTED ? `(${MAX_COUNTED}+) ` : `(${this.#unseen}) `;
  }
}
