/**
 * The route: the view and its options, stored in the part of the address after "#". It survives a
 * reload, and works with the back button and in links. It never contains the API key.
 */

import { STATES } from "./group-snapshot.js";

const SORTS = { seen: "descending", name: "ascending", state: "ascending" };
const GROUP_ID = /^[A-Za-z0-9_-]{2,50}$/;
const OLD_STATES = { silent: "offline" }; // links that were kept

/**
 * Return the route of an address's hash; invalid parts are ignored.
 * @returns {{view: "start"|"groups"|"group"|"device", group: string, device: string,
 *   search: string, sort: string, order: string, state: string, page: number}}
 */
export function parseRoute(hash) {
  const [path, query = ""] = hash.replace(/^#?\/?/, "").split("?", 2);
  const [first, group = "", third, device = ""] = path.split("/").map(decoded);
  const params = new URLSearchParams(query);
  const state = OLD_STATES[params.get("state")] ?? params.get("state");
  const sort = Object.hasOwn(SORTS, params.get("sort") ?? "") ? params.get("sort") : "seen";
  return {
    view: viewOf(first, group, third, device),
    group,
    device,
    search: params.get("q") ?? "",
    sort,
    order: params.has("reverse") ? opposite(SORTS[sort]) : SORTS[sort],
    state: STATES.includes(state) ? state : "",
    page: Math.max(1, Number.parseInt(params.get("page"), 10) || 1),
  };
}

/** Return the hash of a route. */
export function formatRoute(route) {
  if (route.view === "start") return "#/";
  if (route.view === "groups") return "#/groups";
  const params = new URLSearchParams();
  if (route.search) params.set("q", route.search);
  if (route.state) params.set("state", route.state);
  if (route.sort !== "seen") params.set("sort", route.sort);
  if (route.order !== SORTS[route.sort]) params.set("reverse", "1");
  if (route.page > 1) params.set("page", route.page);
  const device = route.view === "device" ? `/device/${encodeURIComponent(route.device)}` : "";
  const query = params.size ? `?${params}` : "";
  return `#/group/${encodeURIComponent(route.group)}${device}${query}`;
}

/** Return the default route of a group. */
export function groupRoute(group) {
  return { ...parseRoute(""), view: "group", group };
}

/** Return the route that is sorted by a column; a second click reverses the order. */
export function sortedBy(route, sort) {
  const order = route.sort === sort ? opposite(route.order) : SORTS[sort];
  return { ...route, sort, order, page: 1 };
}

function viewOf(first, group, third, device) {
  if (first === "groups") return "groups";
  if (first !== "group" || !GROUP_ID.test(group)) return "start";
  return third === "device" && device ? "device" : "group";
}

function opposite(order) {
  return order === "ascending" ? "descending" : "ascending";
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return "";
  }
}
