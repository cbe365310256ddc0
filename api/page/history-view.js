/** The views of stored events: a group's latest, a device's, and a device's last day as bars. */

import { html, nothing, svg } from "./vendor/lit-html/lit-html.js";
import { eventText } from "./event-text.js";
import { clockText, countText, isoText, spanText, timeText } from "./formatting.js";
import { formatRoute } from "./route.js";
import { piecesOf, totalsOf } from "./timeline.js";

const SPAN_S = 86_400;
const [WIDTH, HEIGHT] = [1440, 24];
const TOPS = { online: 0, offline: 15, absent: 23, unknown: 23 }; // heights, so that no colour is needed
const TITLES = { online: "online", offline: "offline", absent: "not registered", unknown: "not known" };

/**
 * Return the section of a group's latest events.
 * @param {GroupSnapshot} snapshot
 * @param {object} route
 * @param {EventList} list
 */
export function groupEventsView(snapshot, route, list) {
  const item = (event) => {
    const link = formatRoute({ ...route, view: "device", device: event.device_id });
    const name = snapshot.nameOfEvent(event);
    return html`<li>${when(event, snapshot.now)}
      <span>${snapshot.find(event.device_id)
        ? html`<a href=${link} draggable="false"><bdi>${name}</bdi></a>`
        : html`<bdi>${name}</bdi>`}
      <bdi>${eventText(event, snapshot.group)}</bdi></span></li>`;
  };
  return html`<section class="panel events" aria-labelledby="events-title">
    <h2 id="events-title">Latest events</h2>
    ${problemOf(list)}
    ${list.events.length
      ? html`<ol class="scroll" tabindex="0" aria-labelledby="events-title">${list.events.map(item)}</ol>`
      : html`<p class="hint">${list.isLoaded ? "None yet." : list.problem ? nothing : "Loading …"}</p>`}
  </section>`;
}

/**
 * Return the section of a device's presence: its last day, and its events.
 * @param {GroupSnapshot} snapshot
 * @param {object} device
 * @param {EventList} list
 */
export function deviceHistoryView(snapshot, device, list) {
  return html`<section class="panel history" aria-labelledby="history-title">
    <h2 id="history-title">Presence in the last 24 hours</h2>
    ${problemOf(list)}
    ${snapshot.presenceEnabled
      ? list.isLoaded ? timeline(device, list, snapshot.now) : nothing
      : html`<p class="hint">Presence is switched off in this service: the state follows from the last
          activity alone, and no history of it is stored.</p>`}
    ${list.events.length ? eventTable(snapshot, device, list) : nothing}
  </section>`;
}

function timeline(device, { events }, now) {
  const to = Math.ceil(now / 60) * 60; // whole minutes: nothing moves every second
  const from = to - SPAN_S;
  const pieces = piecesOf(device, events, from, to);
  const totals = totalsOf(pieces);
  const shown = Object.entries(TITLES).filter(([state]) => totals[state] >= 60);
  const text = shown.map(([state, title]) => `${title} ${spanText(totals[state])}`).join(", ");
  const times = pieces.filter(({ state }) => state === "offline").length;
  const label = `${text}${times ? `; offline ${times === 1 ? "once" : `${countText(times)} times`}` : ""}`;
  return html`<svg class="timeline" viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none"
      role="img" aria-label=${`Timeline: ${label}`}>${pieces.map((piece) => bar(piece, from))}</svg>
    <p class="axis" aria-hidden="true"><span>24 h ago</span><span>12 h ago</span><span>now</span></p>
    <p class="summary">${label}</p>`;
}

function bar({ state, from, to }, start) {
  const place = (at) => Math.round(((at - start) * WIDTH * 10) / SPAN_S) / 10;
  const [x, y] = [place(from), TOPS[state]];
  return svg`<rect class=${state} x=${x} y=${y} width=${Math.max(1, place(to) - x)} height=${HEIGHT - y}
    ><title>${TITLES[state]}, ${clockText(from)} to ${clockText(to)}</title></rect>`;
}

function eventTable(snapshot, device, { events, isComplete, kept }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Events"><table>
      <caption class="unseen">Events of ${device.name}, newest first</caption>
      <thead><tr><th scope="col">Time</th><th scope="col">Event</th></tr></thead>
      <tbody>${events.map(
        (event) => html`<tr><td>${when(event, -Infinity)}</td>
          <td><bdi>${eventText(event, snapshot.group)}</bdi></td></tr>`,
      )}</tbody>
    </table></div>
    ${isComplete ? nothing : html`<p class="hint">The latest ${countText(kept)} events.</p>`}`;
}

/** Return the time of an event; that of a recent one without its day. */
function when({ at }, now) {
  const second = Date.parse(at) / 1000;
  const text = Math.abs(now - second) < SPAN_S / 2 ? clockText(second) : timeText(second);
  return html`<time datetime=${isoText(second)} title=${timeText(second)}>${text}</time>`;
}

function problemOf({ problem }) {
  return problem ? html`<p class="notice">${problem}</p>` : nothing;
}
