/** The view of a group: filters, map, table, sparklines. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { trackerStatsView } from "./tracker-stats-view.js";
import { STATES } from "./group-snapshot.js";
import { formatRoute } from "./route.js";
import { groupEventsView } from "./history-view.js";
import { tableView } from "./table-view.js";
import { countText } from "./formatting.js";

/** Return the line about new events, which screen readers read out when it changes. */
export function newsLine({ line }) {
  return html`<p class="news hint" aria-live="polite">${line}</p>`;
}

/**
 * Return the view of a group whose first snapshot is not complete.
 * @param {string} group
 * @param {?GroupSnapshot} loading what there is of it.
 * @param {string} [reason] why there is no stream.
 */
export function loadingView(group, loading, reason) {
  const { size = 0, expected = 0 } = loading ?? {};
  const progress = expected ? ` ${countText(size)} of ${countText(expected)} devices` : "";
  return html`<main class="loading"><h1 tabindex="-1">${group}</h1>
    <p class="hint waiting">${reason ? `${reason} No data yet.` : `Loading${progress} …`}</p>
  </main>`;
}

/**
 * Return the view of a group whose first snapshot is complete.
 * @param {{snapshot: GroupSnapshot, route: object, stats: TrackerStats, selected: object, hold: OrderHold,
 *   events: WatchedEvents}} state
 * @param {{onSearch: function, onRowEvent: function, onPin: function}} on
 */
export function groupView(state, on) {
  const { snapshot, route, stats } = state;
  return html`<main class="group">
    <div class="title">
      <h1 tabindex="-1">${snapshot.group}</h1>
      ${snapshot.of > snapshot.size
        ? html`<p class="hint">The first ${countText(snapshot.size)} by name of
            ${countText(snapshot.of)} devices.</p>`
        : nothing}
      ${newsLine(state.events)}
    </div>
    <div class="columns">
      <section class="devices" aria-label="Devices">
        ${snapshot.size ? listView(state, on) : noDevices(snapshot)}
      </section>
      <div class="aside">
        ${snapshot.size ? mapView(state.selected.devices) : nothing}
        ${groupEventsView(snapshot, route, state.events.group)}
        ${trackerStatsView(stats, snapshot)}
      </div>
    </div>
  </main>`;
}

function listView({ snapshot, route, selected, hold }, on) {
  const { devices, counts } = selected;
  return html`<div class="tools">
      <div class="filters" role="group" aria-label="State">
        ${filter(route, counts, "", "all")}
        ${STATES.map((state) => filter(route, counts, state, state))}
      </div>
      <label class="search"><span class="unseen">Search by name or id</span>
        <input type="search" placeholder="Search by name or id" .value=${route.search}
          autocomplete="off" spellcheck="false" @input=${(event) => on.onSearch(event.target.value)}>
      </label>
      <button class="hold" aria-pressed=${hold.isPinned} @click=${on.onPin}
        title="Rows also stay in place while the pointer or the keyboard focus is on them">
        ${hold.isActive && !hold.isPinned ? "Order held" : "Hold order"}
      </button>
    </div>
    ${devices.length
      ? html`<div class="rows panel" @pointermove=${on.onRowEvent} @pointerdown=${on.onRowEvent}
          @pointerleave=${on.onRowEvent} @focusin=${on.onRowEvent} @focusout=${on.onRowEvent}>${tableView(snapshot, route, devices)}</div>`
      : html`<div class="empty panel">
          <h2>No device matches</h2>
          <p><a href=${formatRoute({ ...route, search: "", state: "", page: 1 })}>Show all devices</a></p>
        </div>`}`;
}

function filter(route, counts, state, title) {
  return html`<a class="filter" draggable="false" aria-current=${route.state === state}
    href=${formatRoute({ ...route, state, page: 1 })}
    >${state ? html`<i class="dot ${state}" aria-hidden="true"></i>` : nothing}
    ${title} <b>${countText(counts[title])}</b></a>`;
}

function mapView(devices) {
  const located = devices.reduce((count, device) => count + (device.location ? 1 : 0), 0);
  const label =
    `Map of the last positions of ${countText(located)} of the ${countText(devices.length)} ` +
    "devices that are listed; each device's page has its position as text";
  return html`<section class="panel map" aria-labelledby="map-title">
    <h2 id="map-title">Last positions</h2>
    <div class="sheet">
      <canvas id="map" role="img" aria-label=${label}></canvas>
      <div id="map-hint" class="tip" hidden></div>
    </div>
  </section>`;
}

function noDevices(snapshot) {
  return html`<div class="empty panel">
    <h2>No devices</h2>
    <p>No device is registered in <b>${snapshot.group}</b>${
      snapshot.allGroups ? "" : ", or this API key may not read the group"}.
      A device appears here as soon as it is registered with
      <code>POST /api/v1/devices/register</code>.</p>
  </div>`;
}
