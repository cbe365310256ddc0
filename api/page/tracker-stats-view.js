/** Sparklines of the group and, for API keys of all groups, of every target of the service. */

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { countText, countedText, durationText } from "./formatting.js";
import { sparkline } from "./sparkline.js";

const LAG_OVER_S = 6; // a little more than the default flush interval
const rate = (value) => countText(Math.round(value));
const percent = (value) => `${(100 * value).toFixed(value > 0.995 && value < 1 ? 1 : 0)} %`;

/** Return the section of sparklines. */
export function trackerStatsView(stats, snapshot) {
  const active = stats.samples.map((sample) => sample.active);
  return html`<section class="panel stats" aria-labelledby="stats-title">
    <h2 id="stats-title">Last five minutes</h2>
    <h3>This group</h3>
    <dl class="sparks">${sparkline("active devices/s", active, rate, 4)}</dl>
    ${snapshot.allGroups ? targetsView(stats) : nothing}
  </section>`;
}

function targetsView(stats) {
  if (!stats.isTracking) return html`<p class="hint">Tracking is switched off in this service.</p>`;
  return stats.targets.map((target) => {
    const values = (statistic) => stats.values(target.name, statistic);
    return html`<h3>${target.label}, whole service</h3>
      <dl class="sparks">
        ${sparkline("touches/s", values("touches"), rate, 4)}
        ${sparkline("coalesced", values("coalesced"), percent, 1)}
        ${sparkline("lag", recentMaximum(values("lag")), durationText, 5)}
        ${sparkline("last flush", values("flush"), durationText, 0.01)}
      </dl>
      ${problems(target)}`;
  });
}

/** Return the maximum of the last seconds at each value: a lag rises and falls with every flush. */
function recentMaximum(values) {
  return values.map((value, i) =>
    value === null ? null : Math.max(...values.slice(Math.max(0, i - LAG_OVER_S + 1), i + 1)),
  );
}

function problems({ failures, pending, dropped }) {
  const texts = [];
  if (failures) {
    texts.push(
      `${countedText(failures, "flush has failed", "flushes in a row have failed")}; ` +
        countedText(pending, "key waits in memory", "keys wait in memory"),
    );
  }
  if (dropped) texts.push(`${countedText(dropped, "touch", "touches")} dropped since the start`);
  return texts.length ? html`<p class="trouble">${texts.join(" · ")}</p>` : nothing;
}
