/** How the service fares: sparklines, for keys of all groups; others see their group's alone. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { sparkline } from "./sparkline.js";
import { countText, countedText, durationText } from "./words.js";

const TARGETS = { devices: "Devices", api_keys: "API keys" };
const LAG_OVER_S = 6; // a little more than the time between two flushes by default
const rate = (value) => countText(Math.round(value));
const percent = (value) => `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`;

/** Return the section of sparklines. */
export function pulseView(pulse, fleet) {
  const active = pulse.samples.map((sample) => sample.active);
  return html`<section class="panel pulse" aria-labelledby="pulse-title">
    <h2 id="pulse-title">Last five minutes</h2>
    <h3>This group</h3>
    <dl class="sparks">${sparkline("active devices/s", active, rate, 4)}</dl>
    ${fleet.allGroups ? serviceView(pulse) : nothing}
  </section>`;
}

function serviceView(pulse) {
  if (!pulse.tracking) return html`<p class="hint">Tracking is switched off in this service.</p>`;
  return Object.entries(TARGETS).map(
    ([target, title]) => html`<h3>${title}, whole service</h3>
      <dl class="sparks">
        ${sparkline("touches/s", of(pulse, target, "touches"), rate, 4)}
        ${sparkline("coalesced", of(pulse, target, "coalesced"), percent, 1)}
        ${sparkline("lag", highest(of(pulse, target, "lag")), durationText, 5)}
        ${sparkline("last flush", of(pulse, target, "flush"), durationText, 0.01)}
      </dl>
      ${trouble(pulse.service?.[target])}`,
  );
}

function of(pulse, target, figure) {
  return pulse.samples.map((sample) => sample[target]?.[figure] ?? null);
}

/** Return the highest of the last seconds for each: a lag rises and falls with every flush. */
function highest(values) {
  return values.map((value, i) =>
    value === null ? null : Math.max(...values.slice(Math.max(0, i - LAG_OVER_S + 1), i + 1)),
  );
}

function trouble(target) {
  if (!target) return nothing;
  const said = [];
  if (target.failures) {
    said.push(
      `${countedText(target.failures, "flush has failed", "flushes in a row have failed")}; ` +
        countedText(target.pending, "key waits in memory", "keys wait in memory"),
    );
  }
  if (target.dropped) said.push(`${countedText(target.dropped, "touch", "touches")} dropped since the start`);
  return said.length ? html`<p class="trouble">${said.join(" · ")}</p>` : nothing;
}
