/** Which devices are shown, and in what order. */

import { STATES } from "./fleet.js";
import { searchable } from "./words.js";

const LEAST_OF_ID = 4; // ids are hexadecimal: a short word is in many of them by chance

/**
 * Devices that match, in order. While it is held, nobody changes places, leaves for another state or
 * comes in between, so that what somebody is about to click stays where it is.
 */
export class Selection {
  #asked = "";
  #ids = [];

  /**
   * Return what a route asks for.
   * @param {Fleet} fleet
   * @param {object} route
   * @param {boolean} held keep the order, as long as the route asks for the same.
   * @returns {{devices: object[], counts: Object<string, number>}} the devices, and how many match
   *   the search, by state and in `all`.
   */
  of(fleet, route, held) {
    const matching = matches(fleet, route.search);
    const counts = { all: matching.length, online: 0, idle: 0, silent: 0 };
    for (const device of matching) counts[fleet.stateOf(device)] += 1;
    const wanted = route.state
      ? matching.filter((device) => fleet.stateOf(device) === route.state)
      : matching;
    const asked = [fleet.group, route.search, route.state, route.sort, route.order].join("\n");
    const devices =
      held && asked === this.#asked
        ? this.#held(fleet, wanted)
        : wanted.sort(comparison(fleet, route.sort, route.order));
    this.#asked = asked;
    this.#ids = devices.map((device) => device.id);
    return { devices, counts };
  }

  #held(fleet, wanted) {
    const before = new Set(this.#ids);
    const old = this.#ids.map((id) => fleet.find(id)).filter(Boolean);
    return [...old, ...wanted.filter((device) => !before.has(device.id))];
  }
}

function matches(fleet, search) {
  const needle = searchable(search);
  const all = [...fleet.devices];
  if (!needle) return all;
  const inIds = needle.length >= LEAST_OF_ID;
  return all.filter(
    ({ searched, id }) => searched.includes(needle) || (inIds && id.includes(needle)),
  );
}

function comparison(fleet, sort, order) {
  fleet.rank();
  const sign = order === "ascending" ? 1 : -1;
  const byName = (a, b) => a.rank - b.rank;
  const bySeen = (a, b) => (a.seen ?? -1) - (b.seen ?? -1);
  const byState = (a, b) => STATES.indexOf(fleet.stateOf(a)) - STATES.indexOf(fleet.stateOf(b));
  if (sort === "name") return (a, b) => sign * byName(a, b);
  if (sort === "state") return (a, b) => sign * byState(a, b) || bySeen(b, a) || byName(a, b);
  return (a, b) => sign * bySeen(a, b) || byName(a, b);
}
