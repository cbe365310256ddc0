/** A group's page: filters, map, table, sparklines. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { pulseView } from "./pulse-view.js";
import { formatRoute } from "./route.js";
import { tableView } from "./table.js";
import { countText } from "./words.js";

/**
 * Return the page of a group whose first picture is whole.
 * @param {{fleet: Fleet, route: object, pulse: Pulse, selected: object, hold: Hold}} state
 * @param {{onSearch: function, onReader: function, onPin: function}} on
 */
export function fleetView(state, on) {
  const { fleet, route, pulse } = state;
  return html`<main class="fleet">
    <div class="title">
      <h1 tabindex="-1">${fleet.group}</h1>
      ${fleet.of > fleet.size
        ? html`<p class="hint">The first ${countText(fleet.size)} by name of
            ${countText(fleet.of)} devices.</p>`
        : nothing}
    </div>
    <div class="columns">
      <section class="devices" aria-label="Devices">
        ${fleet.size ? listView(state, on) : noDevices(fleet)}
      </section>
      <div class="aside">
        ${fleet.size ? mapView(state.selected.devices) : nothing} ${pulseView(pulse, fleet)}
      </div>
    </div>
  </main>`;
}

function listView({ fleet, route, selected, hold }, on) {
  const { devices, counts } = selected;
  return html`<div class="tools">
      <div class="filters" role="group" aria-label="State">
        ${filter(route, counts, "", "all")} ${filter(route, counts, "online", "online")}
        ${filter(route, counts, "idle", "idle")} ${filter(route, counts, "silent", "silent")}
      </div>
      <label class="search"><span class="unseen">Search by name or id</span>
        <input type="search" placeholder="Search by name or id" .value=${route.search}
          autocomplete="off" spellcheck="false" @input=${(event) => on.onSearch(event.target.value)}>
      </label>
      <button class="hold" aria-pressed=${hold.pinned} @click=${on.onPin}
        title="Rows also keep their places while you point at them, or the focus is among them">
        ${hold.on && !hold.pinned ? "Order held" : "Hold order"}
      </button>
    </div>
    ${devices.length
      ? html`<div class="rows panel" @pointermove=${on.onReader} @pointerdown=${on.onReader}
          @pointerleave=${on.onReader} @focusin=${on.onReader} @focusout=${on.onReader}>${tableView(fleet, route, devices)}</div>`
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
    "devices that are listed; each device's page has the same";
  return html`<section class="panel map" aria-labelledby="map-title">
    <h2 id="map-title">Last positions</h2>
    <div class="sheet">
      <canvas id="map" role="img" aria-label=${label}></canvas>
      <div id="map-hint" class="tip" hidden></div>
    </div>
  </section>`;
}

function noDevices(fleet) {
  return html`<div class="empty panel">
    <h2>No devices</h2>
    <p>Nothing is registered in <b>${fleet.group}</b>${
      fleet.allGroups ? "" : ", or this key may not see it"}.
      A device appears here by itself once it registers, with
      <code>POST /api/v1/devices/register</code>.</p>
  </div>`;
}
