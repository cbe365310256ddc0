/** The page: holds its state, draws the view of the current route, handles events of the stream. */

import { html, render } from "./vendor/lit-html/lit-html.js";
import { deviceView, reportTable } from "./device-view.js";
import { focusRow, focusTitle, focusView } from "./focus.js";
import { groupView, loadingView } from "./group-view.js";
import { GroupSnapshot } from "./group-snapshot.js";
import { groupsView } from "./groups-view.js";
import { headerView } from "./header-view.js";
import { OrderHold } from "./order-hold.js";
import { loginView } from "./login-view.js";
import { DeviceMap } from "./map.js";
import { TrackerStats } from "./tracker-stats.js";
import { Track } from "./reports.js";
import { listGroups } from "./requests.js";
import { formatRoute, groupRoute, parseRoute } from "./route.js";
import { Selection } from "./selection.js";
import { canBeKey, forgetKey, keepKey, readKey } from "./session.js";
import { follow } from "./stream.js";
import { showTooltip } from "./tooltip.js";
import { drawTrack } from "./track-canvas.js";
import { countedText } from "./formatting.js";
import { WatchedEvents } from "./watched-events.js";

const REFRESH_GROUPS_EVERY_MS = 15_000;
const POLL_HIDDEN_EVERY_MS = 60_000;
const ANNOUNCE_SEARCH_AFTER_MS = 800;
const root = document.getElementById("app");
const announcer = document.getElementById("announcer");
const map = new DeviceMap({
  onOpen: (device) => go({ ...state.route, view: "device", device: device.id }),
  onHover: (device, x, y) =>
    showTooltip(document.getElementById("map-hint"), state.snapshot, device, x, y),
});
const INITIAL = {
  groups: null,
  problem: "",
  search: "",
  snapshot: null,
  loading: null,
  selected: null,
  track: null,
  events: null,
};
const state = { ...INITIAL, key: readKey(), busy: false, route: parseRoute(location.hash) };
state.status = { state: "connecting" };
let stop = () => {};
let subscribedGroup = null;
let frame = 0;
let hold = new OrderHold();
let selection = new Selection();
let stats = new TrackerStats();
let searchTimer = 0;
let drawnReports = null;

/** Draw once at the next frame. */
function refresh() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    draw();
  });
}

function draw() {
  const { key, route, snapshot } = state;
  showTitle();
  if (!key) return render(loginView(state.problem, state.busy, signIn), root);
  const row = document.activeElement?.closest("tbody a")?.getAttribute("href");
  render(html`${headerView(state, signOut)} ${bodyView()}`, root);
  if (row) focusRow(root, row);
  if (route.view === "group" && shown()) {
    map.show(document.getElementById("map"), snapshot, state.selected.devices);
  }
  const sheet = document.getElementById("track");
  if (sheet) drawTrack(sheet, state.track.reports, state.track.loaded);
  const table = document.getElementById("reports");
  if (table && (drawnReports !== state.track.reports || !table.firstElementChild)) {
    drawnReports = state.track.reports; // formatting thousands of rows is too slow for every tick
    render(reportTable(snapshot.find(route.device), drawnReports), table);
  }
}

/** Show the title; while the tab is hidden, it is all that is drawn. */
function showTitle() {
  const { view, group, device } = state.route;
  const names = state.key ? [view === "device" && shown()?.find(device)?.name, group] : [];
  document.title = (state.events?.mark ?? "") + [...names, "Fleet, live"].filter(Boolean).join(" · ");
}

function shown() {
  return state.snapshot?.group === state.route.group ? state.snapshot : null;
}

function bodyView() {
  const { route, track, events } = state;
  if (route.view === "groups" || route.view === "start") {
    const search = (text) => {
      state.search = text;
      refresh();
    };
    return groupsView(state.groups, state.problem, state.search, search);
  }
  const snapshot = shown();
  if (!snapshot) return loadingView(route.group, state.loading, state.status.reason);
  if (route.view === "device") return deviceView(snapshot, route, { track, events });
  state.selected = selection.of(snapshot, route, hold.isActive);
  const on = { onSearch: search, onRowEvent: handleReader, onPin: pin };
  return groupView({ snapshot, route, stats, selected: state.selected, hold, events }, on);
}

function handleReader(event) {
  const before = hold.isActive;
  hold.handle(event);
  if (hold.isActive !== before) refresh();
}

function pin() {
  hold.isPinned = !hold.isPinned;
  refresh();
}

function search(text) {
  const route = { ...state.route, search: text, page: 1 };
  history.replaceState(null, "", formatRoute(route)); // no history entry for each letter
  state.route = route;
  refresh();
  clearTimeout(searchTimer);
  const found = () => announce(countedText(state.selected?.devices.length ?? 0, "device matches", "devices match"));
  searchTimer = setTimeout(found, ANNOUNCE_SEARCH_AFTER_MS);
}

function announce(text) {
  announcer.textContent = text;
}

function go(route) {
  location.hash = formatRoute(route);
}

async function signIn(key) {
  if (!canBeKey(key)) return askForKey("That is not an API key. API keys start with ak_.");
  state.busy = true;
  refresh();
  try {
    state.groups = await listGroups(key);
    keepKey(key);
    state.key = key;
    state.problem = "";
    applyRoute();
  } catch (error) {
    const unknown = "This key is not valid: unknown, revoked or expired.";
    askForKey(error.status === 401 ? unknown : error.message);
  } finally {
    state.busy = false;
    refresh();
  }
}

/** Show the sign-in form, and drop all data of the last key. */
function askForKey(problem) {
  forgetKey();
  unsubscribe();
  Object.assign(state, INITIAL, { key: null, problem });
  draw();
  document.getElementById("key")?.focus();
}

function signOut() {
  history.replaceState(null, "", "#/");
  state.route = parseRoute("");
  askForKey("");
}

/** Update state and view to the address of the page. */
function applyRoute() {
  const before = state.route;
  state.route = parseRoute(location.hash);
  if (!state.key) return refresh();
  const { view, group, device } = state.route;
  if (view === "start" && state.groups?.length === 1) {
    history.replaceState(null, "", formatRoute(groupRoute(state.groups[0].group_id)));
    return applyRoute();
  }
  if (view === "start" || view === "groups") {
    unsubscribe();
    loadGroups();
  } else if (subscribedGroup !== group) {
    subscribe(group);
  }
  if (view === "device" && state.track?.deviceId !== device) {
    state.track = new Track(state.key, device, refresh);
  }
  if (view !== "device") state.track = null;
  state.events?.show(view === "device" ? device : null);
  if (before.view !== view) hold.release();
  draw();
  const turned = before.page !== state.route.page && document.activeElement?.matches(".pager a");
  if (before.view !== view || turned) focusView(root, before);
  focusTitle(root);
}

async function loadGroups() {
  const { key } = state;
  try {
    const groups = await listGroups(key);
    if (state.key !== key) return;
    Object.assign(state, { groups, problem: "" });
    if (state.route.view === "start" && groups.length === 1) applyRoute();
  } catch (error) {
    if (state.key !== key) return;
    if (error.status === 401) return askForKey("This key is no longer valid.");
    state.problem = error.message;
  }
  refresh();
}

function unsubscribe() {
  stop();
  stop = () => {};
  subscribedGroup = null;
  stats = new TrackerStats();
  selection = new Selection();
  hold = new OrderHold();
  map.forget();
  drawnReports = null;
  state.status = { state: "connecting" };
  Object.assign(state, { snapshot: null, loading: null, track: null, selected: null, events: null });
}

function subscribe(group) {
  unsubscribe();
  subscribedGroup = group;
  state.events = new WatchedEvents(state.key, group, refresh);
  stop = follow({ group, key: state.key, onEvent: onStreamEvent, onStatus: onStatusChange });
}

/** Handle an event; a new snapshot replaces the old one when it is complete. */
function onStreamEvent(event, data) {
  const snapshot = state.loading ?? state.snapshot;
  if (event === "hello") state.loading = new GroupSnapshot(data);
  if (event === "devices") snapshot.add(data.devices);
  if (event === "tick") {
    stats.tick(data.now, snapshot.tick(data));
    state.track?.moved(snapshot.find(state.track.deviceId)?.location);
    state.events.tick(snapshot);
  }
  if (event === "events") state.events.add(data, showTitle);
  if (event === "service") stats.serve(data);
  if (event === "ready") {
    const isFirst = !state.snapshot;
    Object.assign(state, { snapshot: state.loading, loading: null });
    draw();
    if (isFirst) focusTitle(root);
    else state.events.reload();
  }
  refresh();
}

function onStatusChange(status) {
  if (status.state === "unauthorized") {
    return askForKey("This key is no longer valid: revoked or expired.");
  }
  const { state: before, reason } = state.status;
  // A retry is not announced: the connection is still lost.
  if (before === "waiting" && status.state === "connecting") {
    state.status = { ...state.status, retryAt: null };
  } else {
    state.status = status;
    if (status.state === "waiting" && status.reason !== reason) {
      announce(before === "connecting" ? status.reason : `Connection lost. ${status.reason}`);
    }
    if (status.state === "live") announce("Live");
  }
  refresh();
}

addEventListener("hashchange", applyRoute);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
addEventListener("resize", refresh);
setInterval(() => {
  if (state.status.state === "waiting") refresh(); // the countdown
}, 1000);
function refreshGroups() {
  const { view } = state.route;
  if (state.key && (view === "groups" || view === "start") && !document.hidden) loadGroups();
}
setInterval(refreshGroups, REFRESH_GROUPS_EVERY_MS);
setInterval(() => {
  if (state.status.state === "hidden") state.events?.poll().then(showTitle);
}, POLL_HIDDEN_EVERY_MS);
document.addEventListener("visibilitychange", () => {
  refreshGroups();
  if (!document.hidden) state.events?.seen();
  showTitle();
});
applyRoute();
