/** Which devices are listed, and in which order. */

import { STATES } from "./group-snapshot.js";
import { searchable } from "./formatting.js";

const MIN_ID_CHARACTERS = 4; // ids are hexadecimal: many contain a short word by chance

/**
 * Devices that match, in order. While the order is held, no row moves, leaves or is inserted in
 * between, so that a row stays where the reader is about to click.
 */
export class Selection {
  #asked = "";
  #ids = [];

  /**
   * Return the devices that match a route.
   * @param {GroupSnapshot} snapshot
   * @param {object} route
   * @param {boolean} held keep the order, as long as the filter and the sorting are the same.
   * @returns {{devices: object[], counts: Object<string, number>}} the devices, and how many match
   *   the search, by state and in `all`.
   */
  of(snapshot, route, held) {
    const matching = matches(snapshot, route.search);
    const counts = { all: matching.length };
    for (const state of STATES) counts[state] = 0;
    for (const device of matching) counts[device.presence] += 1;
    const wanted = route.state
      ? matching.filter((device) => device.presence === route.state)
      : matching;
    const asked = [snapshot.group, route.search, route.state, route.sort, route.order].join("\n");
    const devices =
      held && asked === this.#asked
        ? this.#held(snapshot, wanted)
        : wanted.sort(comparison(snapshot, route.sort, route.order));
    this.#asked = asked;
    this.#ids = devices.map((device) => device.id);
    return { devices, counts };
  }

  #held(snapshot, wanted) {
    const before = new Set(this.#ids);
    const old = this.#ids.map((id) => snapshot.find(id)).filter(Boolean);
    return [...old, ...wanted.filter((device) => !before.has(device.id))];
  }
}

function matches(snapshot, search) {
  const needle = searchable(search);
  const all = [...snapshot.devices];
  if (!needle) return all;
  const inIds = needle.length >= MIN_ID_CHARACTERS;
  return all.filter(
    ({ searched, id }) => searched.includes(needle) || (inIds && id.includes(needle)),
  );
}

function comparison(snapshot, sort, order) {
  snapshot.rank();
  const sign = order === "ascending" ? 1 : -1;
  const byName = (a, b) => a.rank - b.rank;
  const bySeen = (a, b) => (a.seen ?? -1) - (b.seen ?? -1);
  const byState = (a, b) => STATES.indexOf(a.presence) - STATES.indexOf(b.presence);
  if (sort === "name") return (a, b) => sign * byName(a, b);
  if (sort === "state") return (a, b) => sign * byState(a, b) || bySeen(b, a) || byName(a, b);
  return (a, b) => sign * bySeen(a, b) || byName(a, b);
}
