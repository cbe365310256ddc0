/** The list of groups to choose from. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { formatRoute, groupRoute } from "./route.js";
import { countText, countedText, isoText, timeText } from "./formatting.js";

const MAX_SHOWN = 1000;

/**
 * Return the list.
 * @param {?object[]} groups as the service lists them; null while they are loaded.
 * @param {string} problem why they could not be loaded; empty if they were.
 * @param {string} search
 * @param {function(string): void} onSearch
 */
export function groupsView(groups, problem, search, onSearch) {
  return html`<main class="groups">
    <h1 tabindex="-1">Groups</h1>
    ${problem ? html`<p class="notice" role="alert">${problem}</p>` : nothing}
    ${groups ? list(groups, search, onSearch) : problem ? nothing : html`<p class="hint">Loading …</p>`}
  </main>`;
}

function list(groups, search, onSearch) {
  if (!groups.length) {
    return html`<div class="empty">
      <h2>No groups yet</h2>
      <p>A group appears as soon as a device is registered in it with
        <code>POST /api/v1/devices/register</code>.</p>
    </div>`;
  }
  const found = groups.filter((group) => group.group_id.toLowerCase().includes(search.toLowerCase()));
  const shown = found.slice(0, MAX_SHOWN);
  return html`${groups.length > 12
      ? html`<label class="search">Search groups
          <input type="search" .value=${search} @input=${(event) => onSearch(event.target.value)}>
        </label>`
      : nothing}
    <ul class="group-list panel">${shown.map(item)}</ul>
    ${shown.length ? nothing : html`<p class="empty">No group matches.</p>`}
    ${found.length > MAX_SHOWN ? html`<p class="hint">These are the first ${countText(MAX_SHOWN)} of
      ${countText(found.length)}, by id. Search for part of an id to find more.</p>` : nothing}`;
}

function item({ group_id: id, devices, last_seen_at, presence }) {
  const seen = last_seen_at === null ? null : Date.parse(last_seen_at) / 1000;
  return html`<li>
    <a href=${formatRoute(groupRoute(id))}>
      <span class="name">${id}</span>
      <span>${countedText(devices, "device", "devices")}${
        presence.offline ? html`, <span class="offline">${countText(presence.offline)} offline</span>` : nothing
      }</span>
      <span class="muted">
        ${seen === null ? "never seen" : html`seen <time datetime=${isoText(seen)}>${timeText(seen)}</time>`}
      </span>
    </a>
  </li>`;
}
