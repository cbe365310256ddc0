/** The devices as a table, a page at a time. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { formatRoute, sortedBy } from "./route.js";
import { ageText, countText, isoText, positionText, timeText } from "./formatting.js";

const PAGE_ROWS = 100;

/**
 * Return the table and its pages.
 * @param {GroupSnapshot} snapshot
 * @param {object} route
 * @param {object[]} devices all matching devices, in order.
 */
export function tableView(snapshot, route, devices) {
  const pages = Math.max(1, Math.ceil(devices.length / PAGE_ROWS));
  const page = Math.min(route.page, pages);
  const rows = devices.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
  const turning = (where) => (pages > 1 ? pager(route, page, pages, where) : nothing);
  return html`${turning("above")}<table>
      <caption class="unseen">Devices of group ${snapshot.group}, page ${page} of ${pages}</caption>
      <thead>
        <tr>
          ${header(route, "name", "Device")}
          ${header(route, "state", "State")}
          ${header(route, "seen", "Last activity")}
          <th scope="col" class="wide">Last position</th>
          <th scope="col" class="wide">Platform</th>
        </tr>
      </thead>
      <tbody>
        ${rows.map((device) => row(snapshot, route, device))}
      </tbody>
    </table>
    ${turning("below")}`;
}

/** Return a device's state as shape, colour and text, with the time of its last change as tooltip. */
export function stateMark({ presence, since }) {
  const title = since === null ? nothing : `since ${timeText(since)}`;
  return html`<span class="state" title=${title}
    ><i class="dot ${presence}" aria-hidden="true"></i>${presence}</span>`;
}

/** Return how long ago a device was seen, with the time as tooltip. */
export function ageMark(snapshot, device) {
  if (device.seen === null) return html`<span class="muted">never</span>`;
  const age = ageText(snapshot.ageOf(device));
  return html`<time datetime=${isoText(device.seen)} title=${timeText(device.seen)}>${age}</time>`;
}

function header(route, column, title) {
  const sorted = route.sort === column;
  const arrow = route.order === "ascending" ? "↑" : "↓";
  return html`<th scope="col" class=${column} aria-sort=${sorted ? route.order : "none"}>
    <a href=${formatRoute(sortedBy(route, column))} draggable="false"
      >${title}<span aria-hidden="true">${sorted ? arrow : ""}</span></a>
  </th>`;
}

function row(snapshot, route, device) {
  const link = formatRoute({ ...route, view: "device", device: device.id });
  return html`<tr>
    <th scope="row">
      <div class="name">
        <a href=${link} title=${device.name}><bdi>${device.name}</bdi></a>
        <span class="id">${device.id.slice(0, 8)}</span>
      </div>
    </th>
    <td class="state">${stateMark(device)}</td>
    <td class="seen">${ageMark(snapshot, device)}</td>
    <td class="wide place">
      ${device.location ? positionText(...device.location) : html`<span class="muted">none</span>`}
    </td>
    <td class="wide platform"><bdi>${device.platform}</bdi></td>
  </tr>`;
}

function pager(route, page, pages, where) {
  const link = (to, text) =>
    to < 1 || to > pages
      ? html`<span class="button off" aria-hidden="true">${text}</span>`
      : html`<a class="button" href=${formatRoute({ ...route, page: to })}>${text}</a>`;
  const turn = (event) => {
    const to = Math.min(Math.max(1, Math.floor(event.target.valueAsNumber) || 1), pages);
    event.target.value = to;
    location.hash = formatRoute({ ...route, page: to });
  };
  return html`<nav class="pager" aria-label="Pages, ${where}">
    ${link(page - 1, "← Previous")}
    <label>Page <input type="number" min="1" max=${pages} .value=${String(page)} @change=${turn}>
      of ${countText(pages)}</label>
    ${link(page + 1, "Next →")}
  </nav>`;
}
