/** What is above every view: where one is, whether it is live, the way out. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { clockText } from "./words.js";

/** Return the header. */
export function headerView(state, onSignOut) {
  const inGroup = state.route.view === "fleet" || state.route.view === "device";
  const fleet = state.fleet;
  return html`<header class=${state.status.state === "waiting" && inGroup ? "cut-off" : ""}>
    <p class="brand">
      ${inGroup && fleet?.allGroups
        ? html`<a href="#/groups">Groups</a>`
        : html`<a href="#/">Fleet, live</a>`}
    </p>
    ${inGroup ? connection(state) : nothing}
    <button class="quiet" @click=${onSignOut}>Sign out</button>
  </header>`;
}

function connection({ status, fleet }) {
  if (status.state === "live") {
    return fleet?.blind
      ? html`<p class="connection away"><i></i>Live, but the service cannot reach its database: only
          what reports to it is seen.</p>`
      : html`<p class="connection live"><i></i>Live</p>`;
  }
  if (status.state === "connecting") return html`<p class="connection"><i></i>Connecting …</p>`;
  const seconds = status.retryAt === null ? 0 : Math.ceil((status.retryAt - performance.now()) / 1000);
  return html`<p class="connection away"><i></i>
    <span>${status.reason} ${seconds > 0 ? `Reconnecting in ${seconds} s.` : "Reconnecting …"}
      ${fleet ? `Shown is what was known at ${clockText(fleet.now)}.` : ""}</span>
  </p>`;
}
