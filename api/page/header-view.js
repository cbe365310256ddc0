/** The header of every view: navigation, state of the connection, sign out. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { clockText } from "./formatting.js";

/** Return the header. */
export function headerView(state, onSignOut) {
  const inGroup = state.route.view === "group" || state.route.view === "device";
  const snapshot = state.snapshot;
  return html`<header class=${state.status.state === "waiting" && inGroup ? "cut-off" : ""}>
    <p class="brand">
      ${inGroup && snapshot?.allGroups
        ? html`<a href="#/groups">Groups</a>`
        : html`<a href="#/">Fleet, live</a>`}
    </p>
    ${inGroup ? connection(state) : nothing}
    <button class="quiet" @click=${onSignOut}>Sign out</button>
  </header>`;
}

function connection({ status, snapshot }) {
  if (status.state === "live") {
    return snapshot?.stale
      ? html`<p class="connection away"><i></i>Live, but stale: the service cannot reach its database
          and shows only the activity that it receives itself.</p>`
      : html`<p class="connection live"><i></i>Live</p>`;
  }
  if (status.state !== "waiting") return html`<p class="connection"><i></i>Connecting …</p>`;
  const seconds = status.retryAt === null ? 0 : Math.ceil((status.retryAt - performance.now()) / 1000);
  return html`<p class="connection away"><i></i>
    <span>${status.reason} ${seconds > 0 ? `Reconnecting in ${seconds} s.` : "Reconnecting …"}
      ${snapshot ? `Showing what was known at ${clockText(snapshot.now)}.` : ""}</span>
  </p>`;
}
