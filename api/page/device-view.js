/** The view of a device: its properties, its track and its reports. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { formatRoute } from "./route.js";
import { newsLine } from "./group-view.js";
import { deviceHistoryView } from "./history-view.js";
import { ageMark, stateMark } from "./table-view.js";
import { countText, isoText, positionText, timeText } from "./formatting.js";

const SINCE = { online: "Online", idle: "Idle", offline: "Offline" };

/** Columns that are shown when any report has them. */
const OPTIONAL = {
  altitude: ["Altitude", (value) => `${countText(Math.round(value))} m`],
  speed: ["Speed", (value) => `${value.toFixed(1)} m/s`],
  bearing: ["Bearing", (value) => `${Math.round(value)}°`],
  battery_level: ["Battery", (value) => `${Math.round(value)} %`],
  network_type: ["Network", (value) => value],
  provider: ["Provider", (value) => value],
};

/**
 * Return the page.
 * @param {GroupSnapshot} snapshot
 * @param {object} route
 * @param {{track: Track, events: WatchedEvents}} state
 */
export function deviceView(snapshot, route, { track, events }) {
  const device = snapshot.find(route.device);
  const back = html`<a class="back" href=${formatRoute({ ...route, view: "group" })}
    >← All devices of ${snapshot.group}</a>`;
  if (!device) {
    return html`<main class="device">${back}
      <div class="empty panel"><h1 tabindex="-1">Device not found</h1>
        <p>No active device of this group has the id <code class="long">${route.device}</code>${
          snapshot.of > snapshot.size ? ", or it is not among the first 10,000" : ""}.</p></div>
    </main>`;
  }
  return html`<main class="device">${back}
    <div class="title">
      <h1 tabindex="-1"><bdi>${device.name}</bdi></h1>
      ${stateMark(device)}
      ${newsLine(events)}
    </div>
    <dl class="facts panel">
      ${device.since === null || device.presence === "never"
        ? nothing
        : fact(`${SINCE[device.presence]} since`, instant(1000 * device.since))}
      ${fact("Last activity", html`${ageMark(snapshot, device)}${device.seen === null ? "" : " ago"}`)}
      ${fact("Last position", device.location ? positionText(...device.location) : "none")}
      ${device.location ? fact("Captured", instant(device.location[3])) : nothing}
      ${fact("Platform", html`<bdi>${device.platform}</bdi>`)}
      ${fact("Id", html`<code class="long">${device.id}</code>`)}
    </dl>
    ${deviceHistoryView(snapshot, device, events.device)}
    ${trackView(track)}
  </main>`;
}

function trackView(track) {
  const { reports, problem, more, busy } = track;
  const label = `Track of the last ${countText(reports.length)} reports; the table lists them`;
  return html`<div class="columns">
    <section class="panel map" aria-labelledby="track-title">
      <h2 id="track-title">Track <span class="muted">${span(reports)}</span></h2>
      <div class="sheet"><canvas id="track" role="img" aria-label=${label}></canvas></div>
    </section>
    <div>
    ${problem ? html`<p class="notice" role="alert">${problem}</p>` : nothing}
    <div id="reports" ?hidden=${!reports.length}></div>
    ${!reports.length && track.loaded
      ? html`<p class="empty panel">This device has not reported a position.</p>`
      : nothing}
    ${more
      ? html`<p class="more"><button aria-disabled=${busy} @click=${() => track.older()}>
          ${busy ? "Loading …" : "Older reports"}</button></p>`
      : nothing}
    </div>
  </div>`;
}

/**
 * Return a table of reports, which are newest first.
 * @param {?object} device the device that sent the reports.
 * @param {object[]} reports
 */
export function reportTable(device, reports) {
  const columns = Object.entries(OPTIONAL).filter(([name]) =>
    reports.some((report) => (report[name] ?? null) !== null),
  );
  return html`<div class="rows panel scroll" tabindex="0" role="region" aria-label="Reports">
    <table>
      <caption class="unseen">Reports of ${device?.name}, newest first</caption>
      <thead><tr>
        <th scope="col">Captured</th><th scope="col">Position</th><th scope="col">Accuracy</th>
        ${columns.map(([, [title]]) => html`<th scope="col">${title}</th>`)}
      </tr></thead>
      <tbody>${reports.map((report) => reportRow(report, columns))}</tbody>
    </table>
  </div>`;
}

function reportRow(report, columns) {
  return html`<tr>
    <td>${instant(report.timestamp)}</td>
    <td class="place">${positionText(report.latitude, report.longitude)}</td>
    <td>${report.accuracy === null ? "" : `${countText(Math.round(report.accuracy))} m`}</td>
    ${columns.map(([name, [, text]]) => {
      const value = report[name] ?? null;
      return html`<td><bdi>${value === null ? "" : text(value)}</bdi></td>`;
    })}
  </tr>`;
}

function fact(title, value) {
  return html`<div><dt>${title}</dt><dd>${value}</dd></div>`;
}

function instant(ms) {
  return html`<time datetime=${isoText(ms / 1000)}>${timeText(ms / 1000)}</time>`;
}

function span(reports) {
  if (reports.length < 2) return "";
  return `${countText(reports.length)} reports since ${timeText(reports.at(-1).timestamp / 1000)}`;
}
