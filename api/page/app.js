/** The page: which view is shown, whose key is used, what the stream says. */

import { html, render } from "./vendor/lit-html/lit-html.js";
import { deviceView, reportTable } from "./device-view.js";
import { fleetView } from "./fleet-view.js";
import { Fleet } from "./fleet.js";
import { groupsView } from "./groups.js";
import { headerView } from "./header.js";
import { Hold } from "./hold.js";
import { loginView } from "./login.js";
import { FleetMap } from "./map.js";
import { Pulse } from "./pulse.js";
import { Track } from "./reports.js";
import { listGroups } from "./requests.js";
import { formatRoute, groupRoute, parseRoute } from "./route.js";
import { Selection } from "./selection.js";
import { canBeKey, forgetKey, keepKey, readKey } from "./session.js";
import { follow } from "./stream.js";
import { showTip } from "./tip.js";
import { drawTrack } from "./track.js";
import { countText, countedText } from "./words.js";

const GROUPS_EVERY_MS = 15_000;
const SEARCH_SAID_AFTER_MS = 800;
const root = document.getElementById("app");
const announcer = document.getElementById("announcer");
const map = new FleetMap({
  onOpen: (device) => go({ ...state.route, view: "device", device: device.id }),
  onHover: (device, x, y) =>
    showTip(document.getElementById("map-hint"), state.fleet, device, x, y),
});
const EMPTY = {
  groups: null,
  problem: "",
  search: "",
  fleet: null,
  loading: null,
  selected: null,
  track: null,
};
const state = { ...EMPTY, key: readKey(), busy: false, route: parseRoute(location.hash) };
state.status = { state: "connecting" };
let stop = () => {};
let followed = null;
let frame = 0;
let hold = new Hold();
let selection = new Selection();
let pulse = new Pulse();
let searchSaid = 0;
let drawnReports = null;

/** Draw at the next frame, once, however much has changed by then. */
function refresh() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    draw();
  });
}

function draw() {
  const { key, route, fleet } = state;
  document.title = key ? titleOf(route, shown()) : "Fleet, live";
  if (!key) return render(loginView(state.problem, state.busy, signIn), root);
  const row = document.activeElement?.closest("tbody a")?.getAttribute("href");
  render(html`${headerView(state, signOut)} ${bodyView()}`, root);
  if (row) followRow(row);
  if (route.view === "fleet" && shown()) {
    map.show(document.getElementById("map"), fleet, state.selected.devices);
  }
  const sheet = document.getElementById("track");
  if (sheet) drawTrack(sheet, state.track.reports, state.track.loaded);
  const table = document.getElementById("reports");
  if (table && (drawnReports !== state.track.reports || !table.firstElementChild)) {
    drawnReports = state.track.reports; // formatting thousands takes too long for every tick
    render(reportTable(fleet.find(route.device), drawnReports), table);
  }
}

/** Keep the focus with the device that has it, in whatever row it is now. */
function followRow(href) {
  if (document.activeElement?.getAttribute("href") === href) return;
  const links = [...root.querySelectorAll("tbody a")];
  const link = links.find((one) => one.getAttribute("href") === href);
  (link ?? root.querySelector("h1"))?.focus({ preventScroll: true });
}

function titleOf(route, fleet) {
  const device = route.view === "device" && fleet?.find(route.device)?.name;
  return [device, route.group, "Fleet, live"].filter(Boolean).join(" · ");
}

function shown() {
  return state.fleet?.group === state.route.group ? state.fleet : null;
}

function bodyView() {
  const { route, track } = state;
  if (route.view === "groups" || route.view === "start") {
    const search = (text) => {
      state.search = text;
      refresh();
    };
    return groupsView(state.groups, state.problem, state.search, search);
  }
  const fleet = shown();
  if (!fleet) {
    const { size = 0, expected = 0 } = state.loading ?? {};
    const progress = expected ? ` ${countText(size)} of ${countText(expected)} devices` : "";
    const { reason } = state.status;
    return html`<main class="loading"><h1 tabindex="-1">${route.group}</h1>
      <p class="hint waiting">${reason ? `${reason} Nothing is known yet.` : `Loading${progress} …`}</p>
    </main>`;
  }
  if (route.view === "device") return deviceView(fleet, route, track);
  state.selected = selection.of(fleet, route, hold.on);
  const on = { onSearch: search, onReader: noticeReader, onPin: pin };
  return fleetView({ fleet, route, pulse, selected: state.selected, hold }, on);
}

function noticeReader(event) {
  const before = hold.on;
  hold.notice(event);
  if (hold.on !== before) refresh();
}

function pin() {
  hold.pinned = !hold.pinned;
  refresh();
}

function search(text) {
  const route = { ...state.route, search: text, page: 1 };
  history.replaceState(null, "", formatRoute(route)); // not a step back for every letter
  state.route = route;
  refresh();
  clearTimeout(searchSaid);
  const found = () => say(countedText(state.selected?.devices.length ?? 0, "device matches", "devices match"));
  searchSaid = setTimeout(found, SEARCH_SAID_AFTER_MS);
}

function say(text) {
  announcer.textContent = text;
}

function go(route) {
  location.hash = formatRoute(route);
}

async function signIn(key) {
  if (!canBeKey(key)) return refuse("That is not an API key: it starts with ak_.");
  state.busy = true;
  refresh();
  try {
    state.groups = await listGroups(key);
    keepKey(key);
    state.key = key;
    state.problem = "";
    arrive();
  } catch (error) {
    const unknown = "This key is not valid: unknown, revoked or expired.";
    refuse(error.status === 401 ? unknown : error.message);
  } finally {
    state.busy = false;
    refresh();
  }
}

/** Ask for a key anew, and forget what the last one has shown. */
function refuse(problem) {
  forgetKey();
  unfollow();
  Object.assign(state, EMPTY, { key: null, problem });
  draw();
  document.getElementById("key")?.focus();
}

function signOut() {
  history.replaceState(null, "", "#/");
  state.route = parseRoute("");
  refuse("");
}

/** Bring everything in line with the address. */
function arrive() {
  const before = state.route;
  state.route = parseRoute(location.hash);
  if (!state.key) return refresh();
  const { view, group, device } = state.route;
  if (view === "start" && state.groups?.length === 1) {
    history.replaceState(null, "", formatRoute(groupRoute(state.groups[0].group_id)));
    return arrive();
  }
  if (view === "start" || view === "groups") {
    unfollow();
    loadGroups();
  } else if (followed !== group) {
    startFollowing(group);
  }
  if (view === "device" && state.track?.deviceId !== device) {
    state.track = new Track(state.key, device, refresh);
  }
  if (view !== "device") state.track = null;
  if (before.view !== view) hold.release();
  draw();
  const turned = before.page !== state.route.page && document.activeElement?.matches(".pager a");
  if (before.view !== view || turned) settle(before);
  findFocus();
}

/** Give the focus to the view's title if what had it is gone. */
function findFocus() {
  if (document.activeElement === document.body) {
    root.querySelector("h1")?.focus({ preventScroll: true });
  }
}

/** Put the reader where the new view begins; back from a device, at its row. */
function settle(before) {
  scrollTo(0, 0);
  const link = `tbody a[href*="/device/${CSS.escape(before.device)}"]`;
  const row = before.view === "device" && root.querySelector(link);
  (row || root.querySelector("h1"))?.focus({ preventScroll: !row });
}

async function loadGroups() {
  const { key } = state;
  try {
    const groups = await listGroups(key);
    if (state.key !== key) return;
    Object.assign(state, { groups, problem: "" });
    if (state.route.view === "start" && groups.length === 1) arrive();
  } catch (error) {
    if (state.key !== key) return;
    if (error.status === 401) return refuse("This key is no longer valid.");
    state.problem = error.message;
  }
  refresh();
}

function unfollow() {
  stop();
  stop = () => {};
  followed = null;
  pulse = new Pulse();
  selection = new Selection();
  hold = new Hold();
  map.forget();
  drawnReports = null;
  state.status = { state: "connecting" };
  Object.assign(state, { fleet: null, loading: null, track: null, selected: null });
}

function startFollowing(group) {
  unfollow();
  followed = group;
  stop = follow({ group, key: state.key, onEvent: take, onStatus: notice });
}

/** Take in an event; a new picture replaces the old one only when it is whole. */
function take(event, data) {
  const fleet = state.loading ?? state.fleet;
  if (event === "hello") state.loading = new Fleet(data);
  if (event === "devices") fleet.add(data.devices);
  if (event === "tick") {
    pulse.tick(data.now, fleet.tick(data));
    state.track?.moved(fleet.find(state.track.deviceId)?.location);
  }
  if (event === "service") pulse.serve(data);
  if (event === "ready") {
    const isFirst = !state.fleet;
    Object.assign(state, { fleet: state.loading, loading: null });
    draw();
    if (isFirst) findFocus();
  }
  refresh();
}

function notice(status) {
  if (status.state === "unauthorized") {
    return refuse("This key is no longer valid: revoked or expired.");
  }
  const { state: before, reason } = state.status;
  // A connection that is tried again is not worth a word of its own: it is still away.
  if (before === "waiting" && status.state === "connecting") {
    state.status = { ...state.status, retryAt: null };
  } else {
    state.status = status;
    if (status.state === "waiting" && status.reason !== reason) {
      say(before === "connecting" ? status.reason : `Connection lost. ${status.reason}`);
    }
    if (status.state === "live") say("Live");
  }
  refresh();
}

addEventListener("hashchange", arrive);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
addEventListener("resize", refresh);
setInterval(() => {
  if (state.status.state === "waiting") refresh(); // counts down
}, 1000);
function lookAtGroups() {
  const { view } = state.route;
  if (state.key && (view === "groups" || view === "start") && !document.hidden) loadGroups();
}
setInterval(lookAtGroups, GROUPS_EVERY_MS);
document.addEventListener("visibilitychange", lookAtGroups);
arrive();
